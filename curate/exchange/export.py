"""Preferences written in another tool's layout, into a folder that appears whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.exchange.cards import dataset_info, readme
from curate.exchange.layouts import LAYOUTS, Layout, LeftOut
from curate.exchange.pictures import codes_of, drawn, picture_name
from curate.exchange.row_files import RowFiles
from engine.errors import ConfigError, DataError
from engine.files.atomic import atomic_folder, check_free
from engine.files.clip_features import FEATURES
from engine.records import Preference, Record

PARQUET = "parquet"
FORMATS = (*LAYOUTS, PARQUET)


class Exported(Record):
    """What an export wrote."""

    items: int
    """Preferences read."""
    counts: dict[str, int]
    """items, caption pairs, image pairs."""
    left_out: dict[str, int]
    """Reason -> pairs that the layout cannot hold."""


class Model(Protocol):
    """What an export needs of a checkpoint."""

    question: str
    """What captions answer."""
    name: str
    """Digest of its tokenizers."""

    def decode(self, codes: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """Codes of B images -> uint8 [B, H, W, 3]."""
        ...


def check_layout(layout: str, to: Path) -> None:
    """Whether an export can begin, before anything is loaded.

    Raises:
        ConfigError: the layout is not known.
        DataError: `to` is there already.
    """
    if layout not in FORMATS:
        raise ConfigError(f"--format {layout}: not known; known are {', '.join(FORMATS)}")
    check_free(to)


class _Tally:
    """Counts while preferences pass."""

    def __init__(self) -> None:
        self.items = 0
        self._counts: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def wrote(self, captions: bool, images: bool) -> None:
        self._counts["caption pairs"] += captions
        self._counts["image pairs"] += images

    def left(self, one: LeftOut) -> None:
        self._left_out[f"pairs of {one.pairs}: {one.reason}"] += 1

    def result(self) -> Exported:
        counts = {
            "items": self.items,
            **{name: self._counts[name] for name in ("caption pairs", "image pairs")},
        }
        return Exported(items=self.items, counts=counts, left_out=dict(sorted(self._left_out.items())))


def export_pairs(
    preferences: Iterable[Preference],
    to: Path,
    layout: str,
    model: Model,
    curation: Path,
    progress: Callable[[int], None] = lambda count: None,
) -> Exported:
    """Writes preferences into the new folder `to`; `curation` is the folder that CLIP features lie in.

    One preference and its images are in memory at a time; of Parquet, one row group.

    Raises:
        ConfigError: the layout is not known.
        DataError: `to` is there already, or cannot be written.
    """
    check_layout(layout, to)
    tally = _Tally()
    with atomic_folder(to) as folder:
        if layout == PARQUET:
            _write_table(preferences, folder, model, curation, tally, progress)
        else:
            _write_rows(preferences, folder, LAYOUTS[layout], model, tally, progress)
        result = tally.result()
        if layout == "llama-factory":
            (folder / "dataset_info.json").write_bytes(dataset_info())
        (folder / "README.md").write_bytes(readme(layout, result.counts, result.left_out, model.question))
    return result


def _write_rows(
    preferences: Iterable[Preference],
    folder: Path,
    layout: Layout,
    model: Model,
    tally: _Tally,
    progress: Callable[[int], None],
) -> None:
    with RowFiles(folder) as files:
        for place, preference in enumerate(preferences):
            tally.items += 1
            name = partial(picture_name, place, preference.id)
            sides: list[str] = []
            for line in layout(preference, name, model.question):
                if isinstance(line, LeftOut):
                    tally.left(line)
                    continue
                files.append(line.file, line.row)
                tally.wrote(line.pairs != "images", line.pairs != "captions")
                sides += line.sides
            for side, picture in drawn(preference, sides, model.decode).items():
                path = folder / name(side)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture)
            progress(1)


def _write_table(
    preferences: Iterable[Preference],
    folder: Path,
    model: Model,
    curation: Path,
    tally: _Tally,
    progress: Callable[[int], None],
) -> None:
    from curate.exchange.table import FILE, TableFile, table_row

    with TableFile(folder / FILE) as table:
        for preference in preferences:
            tally.items += 1
            tally.wrote(preference.captions is not None, preference.images is not None)
            pictures = drawn(preference, codes_of(preference), model.decode)
            features = _features(curation, preference.image_features)
            table.append(table_row(preference, pictures, model.question, model.name, features))
            progress(1)


def _features(curation: Path, name: str) -> bytes:
    path = curation / FEATURES / name
    if name and (Path(name).name != name or not path.is_file()):
        raise DataError(f"{path}: the CLIP features of a real image are missing; curate again")
    return path.read_bytes() if name else b""
