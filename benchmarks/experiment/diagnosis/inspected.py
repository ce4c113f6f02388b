"""The curated round of a run that a diagnosis reads, and what all of them print, write and draw."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.experiment.settings import CellSettings
from benchmarks.experiment.sharing import round_folder, stored_settings
from benchmarks.experiment.statistics import Interval, crossed
from curate.store.files import PAIRS
from curate.store.outcomes import Sampled
from curate.store.shards import read_outcomes
from engine.errors import DataError, HermesError
from engine.files.atomic import write_file
from engine.files.layout import resolve_model
from engine.records import Candidates, ImagePair, Preference, Record
from engine.tokenizers.codec import Pixels
from train.data.preferences import load_preferences


class Inspected:
    """A curated round of a run of the embedded world; nothing in it is written.

    Raises (constructor):
        DataError: there is no such round, or the pixel oracle cannot judge its items.
    """

    def __init__(self, run: Path, number: int, limit: int = 0) -> None:
        self.run, self.number, self._limit = run.resolve(), number, limit
        self.folder = round_folder(run, number) / "curate"
        if not (self.folder / PAIRS).is_file():
            raise DataError(f"{self.folder}: no {PAIRS} here; `hermes curate --round {number}` writes it")
        if self.settings.data != "shapes" or self.settings.curate.questions:
            raise DataError(f"{run}: the pixel oracle judges the embedded world's own questions alone")

    @cached_property
    def settings(self) -> CellSettings:
        """Of the run."""
        return stored_settings(self.run)

    @property
    def base(self) -> Path:
        """The checkpoint of round 0, whose image tokenizer all rounds have."""
        return resolve_model(self.settings.model)

    @property
    def weights(self) -> Path:
        """The checkpoint that sampled the round."""
        return round_folder(self.run, self.number - 1) / "checkpoint" if self.number > 1 else self.base

    @cached_property
    def preferences(self) -> dict[str, Preference]:
        """Item -> its preference."""
        return {one.id: one for one in load_preferences(self.folder / PAIRS)}

    def items(self) -> Iterator[Candidates]:
        """The first items with all their candidates."""
        found = (one.item for one in read_outcomes(self.folder) if isinstance(one, Sampled))
        return islice(found, self._limit or None)

    def pair(self, item: Candidates) -> ImagePair | None:
        """What became of an item's images."""
        found = self.preferences.get(item.id)
        return found.images if found else None

    @cached_property
    def _pixels(self) -> Pixels:
        return Pixels(self.base / "image_tokenizer")

    def decode(self, codes: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """Codes of B images -> uint8 [B, H, W, 3]."""
        return self._pixels.images(codes)


class Mean(Record):
    """A mean over items with its 95% interval."""

    value: float
    ci: tuple[float, float]
    count: int


def mean(values: Sequence[float] | NDArray[np.float64]) -> Mean | None:
    """The mean of one value an item; None where there are fewer than two."""
    if len(values) < 2:
        return None
    found: Interval = crossed(np.asarray(values, float)[None, :])
    return Mean(
        value=round(found.value, 5), ci=(round(found.low, 5), round(found.high, 5)), count=len(values)
    )


def shown(one: Mean | None, digits: int = 3) -> str:
    """A mean as tables show it: half its interval behind it."""
    if one is None:
        return "-"
    return f"{one.value:.{digits}f} ±{(one.ci[1] - one.ci[0]) / 2:.{digits}f}"


def titled(given: Sequence[str]) -> list[tuple[str, Path]]:
    """(title, path) of each TITLE=PATH; a path alone is its own title."""
    return [(title or path, Path(path)) for title, _, path in (one.rpartition("=") for one in given)]


def runs_in(folder: Path, is_run: Callable[[Path], bool]) -> list[Path]:
    """A run, or the runs under several seeds in a cell's folder.

    Raises:
        DataError: there is none.
    """
    found = [folder] if is_run(folder) else [one for one in sorted(folder.glob("seed-*")) if is_run(one)]
    if not found:
        raise DataError(f"{folder}: neither a run nor a folder of runs (seed-0, seed-1, ...)")
    return found


def options(name: str, about: str | None) -> argparse.ArgumentParser:
    """What every diagnosis takes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.experiment.diagnosis.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a run")
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--to", type=Path, default=Path(f"benchmarks/results/diagnosis-{name}.json"))
    parser.add_argument("--picture", type=Path, default=Path(f"docs/images/diagnosis-{name}.png"))
    return parser


def write(report: Record, to: Path) -> None:
    """The JSON of a diagnosis."""
    write_file(to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {to}")


def finish(main: Callable[[], None]) -> None:
    """Runs a diagnosis; what a user can mend is one line and status 1."""
    try:
        main()
    except HermesError as error:
        sys.exit(f"diagnosis: {error}")
