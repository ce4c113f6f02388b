"""The table of what the JSON files hold: a row a figure, and one for what was not measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.gpu.records import DRY, Figure, Result
from benchmarks.gpu.stages import FAILED, STAGES, stored

HEAD = "| measured | median | spread (rounds) |\n|---|---|---|"


def table(folder: Path, stages: Sequence[str] = STAGES) -> str:
    """Markdown: on which cards, then each measurement with its work."""
    found = {stage: stored(folder, stage) for stage in stages}
    cards: dict[str, list[str]] = {}
    for stage, result in found.items():
        if result:
            cards.setdefault(result.setting, []).append(stage)
    lines = [f"{', '.join(measured)}: {card}" for card, measured in cards.items()]
    if any(card.startswith(DRY) for card in cards):
        lines.insert(0, "A dry run: shapes are tiny whatever the rows are called, and figures mean nothing.")
    rows = [row for stage, result in found.items() for row in _rows(stage, result)]
    return "\n".join([*lines, *([""] if lines else []), HEAD, *rows])


def _rows(stage: str, result: Result | None) -> Iterator[str]:
    if result is None:
        yield f"| **{stage}** | not measured | |"
        return
    for name, outcome in result.outcomes.items():
        reason = outcome.reason
        state = "" if not reason or reason.startswith(FAILED) else "not run: "
        yield f"| **{stage}, {name}**: {state}{reason or outcome.work} | | |"
        yield from (f"| {figure} | {_cells(one)} |" for figure, one in outcome.figures.items())
        yield from (f"| {figure} | not measured | {why} |" for figure, why in outcome.missing.items())


def _cells(one: Figure) -> str:
    spread = f"{_number(one.low)} to {_number(one.high)} ({one.rounds})" if one.rounds > 1 else ""
    return f"{_number(one.median)} | {spread}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
