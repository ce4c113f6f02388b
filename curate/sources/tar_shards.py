"""WebDataset shards: tar archives in which `key.jpg`, `key.json` and `key.txt` stand together.

Archives are read from front to back and nothing is unpacked: an image is found again by where its bytes lie.
Links and other special members are passed over.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from curate.sources.digest import files_digest
from curate.sources.fields import make_rows
from curate.sources.images import MAX_BYTES, decode_rgb
from curate.sources.json_text import MAX_OBJECT, TOO_LARGE, decode_object
from curate.sources.rows import DataRow
from curate.sources.spelling import CAPTION, Fields, first_of, plain
from engine.errors import DataError
from engine.records import Item, Record

IMAGES = ("jpg", "jpeg", "png", "webp")
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
"""What stands before the first dot of the file's name is the key; hidden files have none."""
_END = 1024
"""Bytes of zeros with which an archive ends, at least."""
_CHUNK = 1 << 20
_SURE = 2
"""Names of captions that count before the text member does; a title is less than that."""


class _Sample(Record):
    """The members of one key: places of their bytes."""

    key: str
    members: dict[str, tuple[int, int]]
    """Ending -> (offset, size)."""
    problem: str = ""


class WebDatasetReader:
    """Shards in the order given. An image is named "<shard>#<offset>+<size>"; an item without an id is
    "<shard without its ending>/<key>", since shards may count their keys each from 0."""

    oracle = is_split = False

    def __init__(self, shards: Sequence[Path], folder: Path, name: str) -> None:
        self.name = name
        self._shards = {path.relative_to(folder).as_posix(): path for path in shards}

    def digest(self) -> str:
        return files_digest(self._shards.values())

    def rows(self) -> Iterator[DataRow]:
        position = 0
        for name, path in self._shards.items():
            try:
                with path.open("rb") as stream:
                    for sample in _samples(stream):
                        if isinstance(sample, int):
                            where, reason = f"{name}:byte {sample}", "a header is damaged"
                            yield DataRow(position=position, where=where, reason=reason)
                            continue
                        yield from _rows(position, name, sample, stream)
                        position += 1
            except (OSError, tarfile.TarError) as error:
                reason = f"the archive cannot be read on: {error or 'it is damaged'}"
                yield DataRow(position=position, where=name, reason=reason)
                position += 1

    def image(self, item: Item) -> Image.Image:
        match = re.fullmatch(r"(.+)#(\d+)\+(\d+)", item.image, re.DOTALL)
        path = self._shards.get(match.group(1)) if match else None
        if match is None or path is None:
            raise DataError(f"image {item.image!r} is in none of the data set's shards")
        offset, size = int(match.group(2)), int(match.group(3))
        if size > MAX_BYTES:
            raise DataError(f"{item.image}: more than {MAX_BYTES >> 20} MiB; shrink it")
        try:
            with path.open("rb") as stream:
                return decode_rgb(_bytes(stream, (offset, size)), item.image)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error


def _bytes(stream: BinaryIO, place: tuple[int, int]) -> bytes:
    stream.seek(place[0])
    return stream.read(place[1])


def _samples(stream: BinaryIO) -> Iterator[_Sample | int]:
    """Neighbouring members of one key, and places of damage. Raises TarError, after the rest, where no more
    can be read."""
    members: dict[str, tuple[int, int]] = {}
    key, problem = "", ""
    damage = None
    try:
        for member in _members(stream):
            if isinstance(member, int):
                yield member
                continue
            named = _KEY.fullmatch(member.name.removeprefix("./"))
            if named is None or not member.isreg() or member.issparse():
                continue
            if named.group(1) != key:
                if members:
                    yield _Sample(key, members, problem)
                key, members, problem = named.group(1), {}, ""
            ending = named.group(2).lower()
            if ending in members:
                problem = f"two members are named {key}.{ending}"
            members[ending] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        damage = error
    length = stream.seek(0, os.SEEK_END)
    if members and all(sum(place) <= length for place in members.values()):
        yield _Sample(key, members, problem)
    if damage is not None:
        raise damage


def _members(stream: BinaryIO) -> Iterator[tarfile.TarInfo | int]:
    """The members, and where something else stands than the zeros at the end of an archive; behind these,
    another archive may begin."""
    end = 0
    with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", ignore_zeros=True) as archive:
        while (member := archive.next()) is not None:
            # The list of all members that tarfile keeps would grow with the archive.
            archive.members.clear()  # type: ignore[attr-defined]
            if member.offset > end and (
                member.offset - end < _END or _is_damaged(stream, end, member.offset)
            ):
                yield end
            end = archive.offset
            yield member
        if _is_damaged(stream, end, stream.seek(0, os.SEEK_END)):
            raise tarfile.ReadError("a header is damaged")


def _is_damaged(stream: BinaryIO, start: int, end: int) -> bool:
    """Whether anything but zeros stands there."""
    stream.seek(start)
    sizes = (min(_CHUNK, end - at) for at in range(start, end, _CHUNK))
    return any(stream.read(size).strip(b"\0") for size in sizes)


def _rows(position: int, shard: str, sample: _Sample, stream: BinaryIO) -> Iterator[DataRow]:
    where = f"{shard}:{sample.key}"
    image = next((sample.members[one] for one in IMAGES if one in sample.members), None)
    fields: Fields | str = sample.problem or ("" if image else f"no image ({', '.join(IMAGES)})")
    name = f"{shard}#{image[0]}+{image[1]}" if image else ""
    fallback_id = f"{shard.rsplit('.', 1)[0]}/{sample.key}"
    yield from make_rows(position, where, fields or _fields(sample, stream), name, fallback_id)


def _fields(sample: _Sample, stream: BinaryIO) -> Fields | str:
    """Those of the JSON member; the text member is the caption where JSON has none."""
    texts = {}
    for ending in ("json", "txt"):
        place = sample.members.get(ending)
        if place is not None:
            if place[1] > MAX_OBJECT:
                return TOO_LARGE
            texts[ending] = _bytes(stream, place)
    fields = decode_object(texts["json"]) if "json" in texts else {}
    if isinstance(fields, str):
        return f"{sample.key}.json: {fields}"
    if "txt" in texts and first_of(plain(fields), CAPTION[:_SURE]) is None:
        try:
            return {**fields, "caption": texts["txt"].decode("utf-8-sig")}
        except UnicodeDecodeError as error:
            return f"{sample.key}.txt: {error}"
    return fields
