"""A folder of images with a listing: JSON lines or a text table; or with a text beside each image."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from curate.sources.confine import ENDINGS, leads_inside
from curate.sources.json_text import json_lines
from curate.sources.spelling import IMAGE, Fields, lower, missing_column
from engine.errors import DataError

LISTINGS = ("items.jsonl", "metadata.jsonl", "metadata.csv", "captions.csv")
TABLES = (".csv", ".tsv", ".txt")
_KINDS = 64
"""Kinds of image names that are told apart in a table."""
_DELIMITERS = ",;\t|"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def listing_entries(files: Sequence[Path]) -> Iterator[tuple[str, Fields | str]]:
    """The rows of one listing; a column `questions` of a table may hold JSON."""
    for file in files:
        yield from _table_entries(file) if file.suffix.lower() in TABLES else json_lines(file)


def text_entries(files: Sequence[Path]) -> Iterator[tuple[str, Fields | str]]:
    """The images of the folder in which the text files lie, each with the text of the same name."""
    texts = {file.stem: file for file in files}
    for name in image_names(files[0].parent):
        text = texts.get(Path(name).stem)
        if text is None:
            yield name, "there is no text of the same name beside it"
        elif not leads_inside((text.parent,), text):
            yield name, f"{text.name} leads outside the data set's folder by a symbolic link; copy it there"
        else:
            caption = text.read_bytes().decode("utf-8-sig", errors="surrogateescape")
            yield name, {"image": name, "caption": caption}


def image_names(folder: Path) -> list[str]:
    """The names of a folder's image files, sorted."""
    return sorted(one.name for one in folder.iterdir() if one.name.lower().endswith(ENDINGS))


def table_header(file: Path) -> tuple[str, list[str]]:
    """The delimiter of a text table, and its columns.

    Raises:
        DataError: it has no columns of images and captions.
    """
    with _opened(file) as stream:
        line = stream.readline(1 << 16)
    headers = {one: [name.strip() for name in _cells(line, one)] for one in _DELIMITERS}
    for delimiter, names in headers.items():
        if not missing_column(names):
            return delimiter, names
    names = max(headers.values(), key=len)
    raise DataError(f"{file}: {missing_column(names)}; its first line must name them, as in file_name,text")


def _opened(file: Path) -> TextIO:
    """Text as spreadsheets save it. What is no UTF-8 becomes a lone surrogate, which quarantines its row."""
    with file.open("rb") as stream:
        encoding = "utf-16" if stream.read(2) in _UTF_16 else "utf-8-sig"
    errors = "surrogateescape" if encoding == "utf-8-sig" else "replace"
    return file.open(newline="", encoding=encoding, errors=errors)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _table_entries(file: Path) -> Iterator[tuple[str, Fields | str]]:
    """A row stands where its first line does; behind one that is damaged, the very next line is read."""
    delimiter, header = table_header(file)
    known = lower(header)
    image = header.index(next(known[name] for name in IMAGE if name in known))
    seen = set(ENDINGS)
    with _opened(file) as stream:
        stream.readline()
        number, again = 2, deque[str]()
        while True:
            taken: list[str] = []
            row = _next_row(_taking(stream, again, taken), delimiter)
            if row is None:
                return
            where, fields = f"{file.name}:{number}", _fields(row, header)
            if not isinstance(fields, str) and len(seen) < _KINDS:
                seen.add(_kind(fields.get(header[image], "")))
            if any(_begins_row(line, delimiter, image, len(header), seen) for line in taken[1:]):
                fields = "a quotation mark is not closed on this line"
            if isinstance(fields, str):
                again.extendleft(reversed(taken[1:]))
                del taken[1:]
            number += len(taken)
            if row:
                yield where, fields


def _taking(stream: TextIO, again: deque[str], taken: list[str]) -> Iterator[str]:
    """The lines that are to be read again, then those of the stream; keeps what was taken."""
    while line := again.popleft() if again else stream.readline():
        taken.append(line)
        yield line


def _next_row(lines: Iterator[str], delimiter: str) -> list[str] | str | None:
    """The cells of the next row, or what is wrong with it; None where no line is left."""
    try:
        return next(csv.reader(lines, delimiter=delimiter, strict=True), None)
    except csv.Error as error:
        return f"CSV is malformed: {error}"


def _fields(row: list[str] | str, header: Sequence[str]) -> Fields | str:
    if isinstance(row, str):
        return row
    if len(row) != len(header):
        return f"{len(row)} columns where the header has {len(header)}"
    return {name: value for name, value in zip(header, row, strict=True) if value}


def _kind(name: str) -> str:
    """What image names of one table have in common: their ending; of names without one, all but digits."""
    return re.sub(r"\d+", "0", Path(name).suffix or name).lower()


def _begins_row(line: str, delimiter: str, image: int, columns: int, seen: set[str]) -> bool:
    """Whether a line inside a quoted text begins as a row does: with an image name in its column."""
    cells = line.split(delimiter)
    name = cells[image].strip(' "\r\n') if len(cells) > max(image, 1) else ""
    return bool(name) and _kind(name) in seen and (len(cells) >= columns or "." in name)
