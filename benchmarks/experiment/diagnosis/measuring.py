"""Measurements of checkpoints for the diagnoses: made once, kept by what decides them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.experiment.cells import Base
from benchmarks.experiment.diagnosis.inspected import Mean, mean
from benchmarks.experiment.grid import SHIPPED, load_grid
from benchmarks.experiment.runner import Runner, held
from benchmarks.experiment.settings import CellSettings, digest
from benchmarks.experiment.sharing import measurement
from benchmarks.experiment.statistics import Array
from curate.evaluation.records import GapReport
from engine.checkpoints.weights import fingerprint
from engine.errors import ConfigError, DataError
from engine.files.layout import resolve_model


def as_the_grid(limit: int) -> CellSettings:
    """Engine and decoding of the shipped grid's base, on so many items of the validation split."""
    shipped = load_grid(SHIPPED)
    like = shipped.settled(shipped.find("base"))
    return msgspec.structs.replace(like, eval=msgspec.structs.replace(like.eval, limit=limit))


def of_checkpoint(like: CellSettings, checkpoint: Path) -> CellSettings:
    """The same with these weights."""
    return msgspec.structs.replace(like, model=str(checkpoint.resolve()))


def measure(planned: Sequence[CellSettings], to: Path, jobs: int) -> list[GapReport]:
    """A measurement of each settings' model, in folders of `to`; what lies there is not made again.

    Raises:
        DataError: one of them failed.
    """
    tasks = [Base(folder=to.resolve() / f"measured-{_key(one)}", settings=one) for one in planned]
    with held(to):
        once = list({task.folder: task for task in tasks}.values())
        failures = Runner(once, jobs, lambda task: None, lambda task: None, print).run()
    if failures:
        raise DataError(f"{failures[0].task}: {failures[0].line}")
    return [_measured(one.folder) for one in tasks]


def _measured(folder: Path) -> GapReport:
    found = measurement(folder, 0)
    if found is None:
        raise DataError(f"{folder}: holds no measurement; remove it, and it is made again")
    return found


def _key(settings: CellSettings) -> str:
    return digest({"weights": fingerprint(resolve_model(settings.model)), "measured": settings.base_basis})


def mean_of(values: Array) -> Mean:
    """The mean of one value an item.

    Raises:
        DataError: there are fewer than two.
    """
    found = mean(values)
    if found is None:
        raise DataError("fewer than two items were measured: nothing to average; raise --limit")
    return found


def numbers(text: str, option: str) -> list[float]:
    """Numbers with commas between, in order.

    Raises:
        ConfigError: one is none, or there is none.
    """
    try:
        found = sorted({float(one) for one in text.split(",") if one.strip()})
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: give numbers with commas between") from error
    if not found:
        raise ConfigError(f"{option} names no number")
    if not all(map(math.isfinite, found)):
        raise ConfigError(f"{option} {text!r}: give finite numbers with commas between")
    return found


def measuring_options(name: str, about: str | None) -> argparse.ArgumentParser:
    """What a diagnosis takes that measures checkpoints."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.experiment.diagnosis.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoints", nargs="+", metavar="TITLE=CHECKPOINT", help="the base first")
    parser.add_argument("--limit", type=int, default=300, help="items")
    parser.add_argument("--jobs", type=int, default=1, help="measurements side by side")
    parser.add_argument("--scratch", type=Path, default=Path("runs/diagnosis"), help="where those lie")
    parser.add_argument("--to", type=Path, default=Path(f"benchmarks/results/diagnosis-{name}.json"))
    parser.add_argument("--picture", type=Path, default=Path(f"docs/images/diagnosis-{name}.png"))
    return parser
