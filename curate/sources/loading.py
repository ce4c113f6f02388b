"""`--data` as a source."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path

import msgspec

from curate.sources.annotations import AnnotationReader, Entries
from curate.sources.detect import KINDS, Finding, detect
from curate.sources.embedded import SHAPES, ShapesReader
from curate.sources.journeydb import journey_entries
from curate.sources.listing import listing_entries, text_entries
from curate.sources.object_file import object_entries
from curate.sources.official import official_entries
from curate.sources.rows import Reader
from curate.sources.saved import saved_files
from curate.sources.source import Source, SourceCounts
from engine.errors import DataError
from engine.records import Item

_ANNOTATED: dict[str, Entries] = {
    "official": official_entries,
    "journeydb": journey_entries,
    "folder": listing_entries,
    "object": object_entries,
    "texts": text_entries,
}


def open_source(data: str, split: str, seed: int, image_size: int, images: str = "") -> Source:
    """A split of a data set: `shapes`, a path, or `kind:PATH`. Reads no rows yet; `seed` draws the shapes.

    Images that are files are looked for in the folder `images`, then beside the annotations.

    Raises:
        DataError: nothing lies at the path that could be read, or several data sets do.
    """
    if data == SHAPES:
        return Source(reader=ShapesReader(split, seed), image_size=image_size, split=split)
    prefix, colon, rest = data.partition(":")
    kind = prefix if colon and prefix in KINDS else ""
    path, folder = Path(rest if kind else data).expanduser(), Path(images).expanduser()
    if not os.path.isdir(folder):
        raise DataError(f"--images {images}: there is no such folder")
    reader = _reader(detect(path, kind), str(path), (folder,) if images else ())
    return Source(reader=reader, image_size=image_size, split=split)


def has_questions(item: Item) -> bool:
    """Whether the data set has questions about an item."""
    return bool(item.questions)


def load_source(
    data: str,
    split: str,
    limit: int,
    seed: int,
    image_size: int,
    select: int = 0,
    part: int = 0,
    has_questions: Callable[[Item], bool] = has_questions,
    images: str = "",
) -> Source:
    """`limit` items of a split (0: all), or of a random `select` of its items where that is not 0.

    `part` 0 is the first `limit` items, 1 the next, and so on; where the data set ends it begins again. The
    embedded world is endless and needs a limit. `seed` decides the shapes and the random items. Reads every
    row once, and no further than it must; of the rows it holds the ids. `has_questions` says which items are
    counted as those that can be asked about; `images` is a folder in which images are looked for first.

    Raises:
        DataError: the data set cannot be read, or no row can be used.
    """
    source = open_source(data, split, seed, image_size, images)
    if not source.reader.is_split:
        return _narrowed(source, limit, seed, select, part, has_questions)
    if select:
        raise DataError("the embedded shapes are drawn at random: say how many with --limit, not --select")
    if limit < 1:
        raise DataError("the embedded shapes are endless: say how many items with --limit")
    source = msgspec.structs.replace(source, limit=limit, skip=part * limit)
    ids, with_questions, _ = _read(source, has_questions)
    counts = SourceCounts(rows=len(ids), items=len(ids), with_questions=len(with_questions))
    return msgspec.structs.replace(source, counts=counts)


def _narrowed(
    source: Source, limit: int, seed: int, select: int, part: int, has_questions: Callable[[Item], bool]
) -> Source:
    """The part of a data set that is asked for, and what is in it."""
    whole = bool(select or (part and limit))
    read = msgspec.structs.replace(source, limit=0 if whole else limit)
    ids, with_questions, problem = _read(read, has_questions)
    selected = random_subset(filter(None, ids), select, seed) if select else None
    usable = [place for place, id_ in enumerate(ids) if id_ and (selected is None or id_ in selected)]
    if not usable:
        split = f" for the {source.split} split" if source.split else ""
        raise DataError(f"{source.name}: no usable item{split}; first problem: {problem}")
    skip = part % -(-len(usable) // limit) * limit if limit else 0
    taken = usable[skip : skip + limit] if limit else usable
    # Rows that cannot be used belong to the item behind them; those at the end only where there is no limit.
    begin = usable[skip - 1] + 1 if skip else 0
    end = taken[-1] + 1 if len(taken) == limit else len(ids)
    counts = SourceCounts(
        rows=len(taken) + ids[begin:end].count(""),
        items=len(taken),
        with_questions=sum(ids[place] in with_questions for place in taken),
    )
    return msgspec.structs.replace(source, limit=limit, skip=skip, selected=selected, counts=counts)


def random_subset(ids: Iterable[str], number: int, seed: int) -> frozenset[str]:
    """`number` of the ids, or all where there are no more; the ids must be distinct.

    Every id has a hash keyed by the seed, and those with the smallest are taken. So a subset does not depend
    on the order of the rows, and when a data set grows, an old row can leave it but none can enter it.
    """
    key = blake2b(str(seed).encode(), digest_size=32).digest()
    return frozenset(
        heapq.nsmallest(number, ids, lambda id_: blake2b(id_.encode(), key=key, digest_size=16).digest())
    )


def _read(source: Source, has_questions: Callable[[Item], bool]) -> tuple[list[str], set[str], str]:
    """The ids of all rows, empty for what cannot be used; those that have questions; the first problem."""
    ids: list[str] = []
    with_questions: set[str] = set()
    problem = ""
    for row in source.rows():
        if row.item is None:
            problem = problem or f"{row.where}: {row.reason}"
        elif has_questions(row.item):
            with_questions.add(row.item.id)
        ids.append(row.item.id if row.item else "")
    return ids, with_questions, problem or "it has too few rows"


def _reader(data_set: Finding, name: str, images: tuple[Path, ...]) -> Reader:
    files = data_set.files
    if data_set.kind == "webdataset":
        from curate.sources.tar_shards import WebDatasetReader

        return WebDatasetReader(files, files[0].parent, name)
    if data_set.kind == "datasets":
        files = tuple(saved_files(files[0]))
    folders = (*images, files[0].parent)
    if data_set.kind in _ANNOTATED:
        return AnnotationReader(_ANNOTATED[data_set.kind], files, folders, name)
    # pyarrow takes long to import.
    from curate.sources.table_files import open_arrow, open_parquet
    from curate.sources.tables import TableReader

    opened = open_arrow if data_set.kind == "datasets" else open_parquet
    return TableReader(opened, files, folders, name)
