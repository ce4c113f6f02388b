"""Runs a stage's measurements one by one, writes each down before the next, and shows what the files hold."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import torch

from benchmarks.gpu.place import Measure, NotRunError, Place
from benchmarks.speed.bench import ROOT, machine
from engine.errors import UNREADABLE
from engine.files.atomic import write_file
from engine.records import Record

STAGES = ("images", "logps", "training", "parity", "tokenizers", "engine", "graphs")
"""In the order in which they tell most."""
SECONDS = 180.0
"""A stage starts no measurement after that."""
DRY, FAILED = "dry: ", "failed: "
"""How the setting of figures begins that are no results, and the reason of what broke."""
WAITS = "the stage ended before; run it again, and it goes on"
HEAD = "| measured | median | spread (rounds) |\n|---|---|---|"


class Outcome(Record):
    """What came of one measurement."""

    work: str = ""
    """What was done, in one line."""
    seconds: float = 0.0
    figures: dict[str, tuple[float, ...]] = {}
    """Each in every round."""
    missing: dict[str, str] = {}
    """Figures that could not be taken, with the reason."""
    reason: str = ""
    """Why there is none at all."""


class StageResult(Record):
    """A stage's file."""

    stage: str
    setting: str
    outcomes: dict[str, Outcome]


def setting_of(device: torch.device, dry: bool) -> str:
    """Card, versions and digest of the code that figures belong to; those of others are measured again."""
    found, digest = machine(), hashlib.blake2b(digest_size=6)
    parts = [found.processor]
    if device.type == "cuda":
        parts = [torch.cuda.get_device_name(), f"driver {_driver()}"]
    for package in ("benchmarks", "curate", "engine", "hermes_cli", "train"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".cpp"):
                digest.update(path.read_bytes())
    parts += [f"{name} {version}" for name, version in found.versions.items()]
    return (DRY if dry else "") + ", ".join([*parts, f"code {digest.hexdigest()}"])


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0] or "unknown"


def measures(stage: str) -> dict[str, Measure]:
    """The measurements of a stage by their names; where it cannot be imported, one that says so."""
    try:
        found: dict[str, Measure] = importlib.import_module(f"benchmarks.gpu.{stage}").MEASURES
    except ModuleNotFoundError as error:
        missing = error

        def refuse(_: Place) -> NoReturn:
            raise missing

        found = {"all of it": refuse}
    return found


def file_of(folder: Path, stage: str) -> Path:
    """Where a stage's figures lie."""
    return folder / f"gpu-{stage}.json"


def stored(folder: Path, stage: str) -> StageResult | None:
    """What was written down, None where there is no such file or not a whole one."""
    try:
        return msgspec.json.decode(file_of(folder, stage).read_bytes(), type=StageResult)
    except (OSError, *UNREADABLE):
        return None


def failed(result: StageResult | None) -> bool:
    """Whether a stage left no file, or a measurement of it failed."""
    return result is None or any(one.reason.startswith(FAILED) for one in result.outcomes.values())


def run(stage: str, place: Place, setting: str, folder: Path, again: bool = False) -> StageResult:
    """Takes what is still missing of a stage's figures."""
    earlier, wanted = None if again else stored(folder, stage), measures(stage)
    kept = earlier.outcomes if earlier and earlier.setting == setting else {}
    kept = {name: one for name, one in kept.items() if not one.reason}
    result = StageResult(stage, setting, {name: kept.get(name, Outcome(reason=WAITS)) for name in wanted})
    started = time.perf_counter()
    for name in [name for name in wanted if name not in kept]:
        if time.perf_counter() - started > SECONDS:
            break
        _write(result, folder)
        result.outcomes[name] = outcome = attempt(wanted[name], place)
        print(f"{stage}, {name}: {outcome.reason or f'{outcome.seconds:.1f} s'}", file=sys.stderr, flush=True)
    _write(result, folder)
    place.drop()
    return result


def _write(result: StageResult, folder: Path) -> None:
    write_file(file_of(folder, result.stage), msgspec.json.format(msgspec.json.encode(result)))


def attempt(measure: Measure, place: Place) -> Outcome:
    """One measurement; whatever stops it becomes the reason."""
    started = time.perf_counter()
    try:
        work, figures = measure(place)
    except NotRunError as error:
        return Outcome(reason=str(error))
    except ModuleNotFoundError as error:
        return Outcome(reason=f"{error.name} is missing")
    except Exception as error:
        traceback.print_exc()
        place.drop()
        first = (str(error).strip().splitlines() or [""])[0]
        return Outcome(reason=f"{FAILED}{type(error).__name__}: {first}")
    finally:
        place.clear()
    return Outcome(
        work=work,
        seconds=round(time.perf_counter() - started, 1),
        figures={name: tuple(one) for name, one in figures.items() if not isinstance(one, str)},
        missing={name: one for name, one in figures.items() if isinstance(one, str)},
    )


def table(folder: Path, stages: Sequence[str] = STAGES) -> str:
    """Markdown: on which cards, then a row a figure, and one for each stage that was not measured."""
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


def _rows(stage: str, result: StageResult | None) -> Iterator[str]:
    if result is None:
        yield f"| **{stage}** | not measured | |"
        return
    for name, outcome in result.outcomes.items():
        reason = outcome.reason
        state = "" if not reason or reason.startswith(FAILED) else "not run: "
        yield f"| **{stage}, {name}**: {state}{reason or outcome.work} | | |"
        for figure, every in outcome.figures.items():
            spread = f"{_number(min(every))} to {_number(max(every))} ({len(every)})" if every[1:] else ""
            yield f"| {figure} | {_number(statistics.median(every))} | {spread} |"
        yield from (f"| {figure} | not measured | {why} |" for figure, why in outcome.missing.items())


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
