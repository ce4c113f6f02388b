"""The table of what the JSON files hold, and of what they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.gpu.records import Figure, Outcome, Result
from benchmarks.gpu.stages import FAILED, STAGES, measures, stored

HEAD = "| measured | median | spread (rounds) |\n|---|---|---|"


def table(folder: Path, stages: Sequence[str] = STAGES) -> str:
    """Markdown: on which cards, then each measurement with its work, and a row a figure."""
    found = {stage: stored(folder, stage) for stage in stages}
    cards: dict[str, list[str]] = {}
    for stage, result in found.items():
        if result:
            cards.setdefault(result.setting.line(), []).append(stage)
    lines = [f"{', '.join(measured)}: {card}" for card, measured in cards.items()]
    rows = [row for stage, result in found.items() for row in _rows(stage, result)]
    return "\n".join([*lines, *([""] if lines else []), HEAD, *rows])


def _rows(stage: str, result: Result | None) -> Iterator[str]:
    for name, measure in measures(stage).items():
        outcome = result.outcomes.get(name, Outcome()) if result else Outcome()
        about = _said(outcome.reason) or outcome.work
        yield f"| **{stage}, {name}**{': ' if about else ''}{about} | | |"
        for figure in measure.figures:
            one = outcome.figures.get(figure)
            cells = _cells(one) if one else f"not measured | {_said(outcome.missing.get(figure, ''))}"
            yield f"| {figure} | {cells} |"


def _said(reason: str) -> str:
    return f"not run: {reason}" if reason and not reason.startswith(FAILED) else reason


def _cells(one: Figure) -> str:
    spread = f"{_number(one.low)} to {_number(one.high)} ({one.rounds})" if one.rounds > 1 else ""
    return f"{_number(one.median)} | {spread}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
