"""`--data` as a source."""

from __future__ import annotations

from pathlib import Path

import msgspec

from curate.sources.detect import KINDS, Finding, detect
from curate.sources.embedded import SHAPES, ShapesReader
from curate.sources.journeydb import JourneyReader
from curate.sources.listing import ListingReader
from curate.sources.official import OfficialReader
from curate.sources.rows import Reader, Tally
from curate.sources.saved import saved_files
from curate.sources.source import Source, select
from engine.errors import DataError


def open_source(data: str, split: str, seed: int, image_size: int) -> Source:
    """A split of a data set: `shapes`, a path, or `kind:PATH`. Reads no rows yet; `seed` draws the shapes.

    Raises:
        DataError: nothing lies at the path that could be read, or several data sets do.
    """
    if data == SHAPES:
        return Source(reader=ShapesReader(split, seed), image_size=image_size, split=split)
    prefix, colon, rest = data.partition(":")
    kind = prefix if colon and prefix in KINDS else ""
    path = Path(rest if kind else data).expanduser()
    return Source(reader=_reader(detect(path, kind), str(path)), image_size=image_size, split=split)


def load_source(
    data: str, split: str, limit: int, seed: int, image_size: int, number: int = 0, skip: int = 0
) -> Source:
    """The first `limit` items of a split (0: all), or of a random `number` of its items where that is not 0.

    The embedded world is endless and needs a limit. `seed` decides the shapes and the random items. The first
    `skip` items are passed over.

    Raises:
        DataError: the data set cannot be read, or no row can be used.
    """
    source = open_source(data, split, seed, image_size)
    if number:
        source = select(source, number, seed)
    if data == SHAPES and limit < 1:
        raise DataError("the embedded shapes are endless: say how many items with --limit")
    source = msgspec.structs.replace(source, limit=limit, skip=skip)
    tally = Tally()
    if all(row.item is None for row in source.rows(tally)):
        first = f"{tally.first.where}: {tally.first.reason}" if tally.first else "it has too few rows"
        beyond = f" beyond the first {skip}" if skip else ""
        raise DataError(
            f"{source.name}: no usable item{beyond} for the {split} split; first problem: {first}"
        )
    return source


def _reader(found: Finding, name: str) -> Reader:
    if found.kind == "official":
        return OfficialReader(found.files[0], name)
    if found.kind == "journeydb":
        return JourneyReader(found.files[0], name)
    if found.kind == "folder":
        return ListingReader(found.files[0], name)
    if found.kind == "webdataset":
        from curate.sources.tar_shards import WebDatasetReader

        return WebDatasetReader(found.files, found.files[0].parent, name)
    # pyarrow takes long to import.
    from curate.sources.table_files import ArrowFile, ParquetFile
    from curate.sources.tables import TableReader

    if found.kind == "datasets":
        return TableReader(ArrowFile, saved_files(found.files[0]), name)
    return TableReader(ParquetFile, found.files, name)
