"""Runs a stage's measurements, one by one, and writes each down before the next."""

from __future__ import annotations

import importlib
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import msgspec

from benchmarks.gpu.place import Measure, NotRunError, Place
from benchmarks.gpu.records import Figure, Outcome, Result
from engine.files.atomic import write_file

STAGES = ("images", "logps", "training", "parity", "tokenizers", "engine", "graphs")
"""In the order in which they tell most."""
SECONDS = 180.0
"""A stage starts no measurement after that."""
FAILED = "failed: "
WAITS = "the stage ended before; run it again, and it goes on"


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


def stored(folder: Path, stage: str) -> Result | None:
    """What was written down, None where there is no such file or not a whole one."""
    try:
        return msgspec.json.decode(file_of(folder, stage).read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError):
        return None


def failed(result: Result | None) -> bool:
    """Whether a stage left no file, or a measurement of it failed."""
    return result is None or any(one.reason.startswith(FAILED) for one in result.outcomes.values())


def run(stage: str, place: Place, setting: str, folder: Path, again: bool = False) -> Result:
    """Takes what is still missing of a stage's figures."""
    earlier, wanted = None if again else stored(folder, stage), measures(stage)
    kept = earlier.outcomes if earlier and earlier.setting == setting else {}
    kept = {name: one for name, one in kept.items() if not one.reason}
    result = Result(stage, setting, {name: kept.get(name, Outcome(reason=WAITS)) for name in wanted})
    started = time.perf_counter()
    for name in [name for name in wanted if name not in kept]:
        if time.perf_counter() - started > SECONDS:
            break
        write_file(file_of(folder, stage), msgspec.json.format(msgspec.json.encode(result)))
        result.outcomes[name] = outcome = attempt(wanted[name], place)
        print(f"{stage}, {name}: {outcome.reason or f'{outcome.seconds:.1f} s'}", file=sys.stderr, flush=True)
    write_file(file_of(folder, stage), msgspec.json.format(msgspec.json.encode(result)))
    place.drop()
    return result


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
        figures={name: Figure.of(one) for name, one in figures.items() if not isinstance(one, str)},
        missing={name: one for name, one in figures.items() if isinstance(one, str)},
    )
