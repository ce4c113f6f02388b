"""A folder of images with a listing: JSON lines, or CSV as the imagefolder layout has it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from curate.sources.confine import read_inside, stray
from curate.sources.digest import files_digest
from curate.sources.fields import CAPTION, IMAGE, make_row
from curate.sources.json_text import json_lines
from curate.sources.rows import DataRow
from engine.errors import DataError
from engine.records import Item

LISTINGS = ("items.jsonl", "metadata.jsonl", "metadata.csv", "captions.csv")


def confined(row: DataRow, folder: Path) -> DataRow:
    """The row, quarantined where its image cannot lie in the folder."""
    if row.item is None or not (reason := stray(folder, row.item.image)):
        return row
    return DataRow(position=row.position, where=row.where, reason=reason)


class ListingReader:
    """Rows of one listing; image names are relative to its folder."""

    oracle = is_split = False

    def __init__(self, listing: Path, name: str) -> None:
        self.name = name
        self._listing, self._folder = listing, listing.parent

    def digest(self) -> str:
        return files_digest([self._listing])

    def rows(self) -> Iterator[DataRow]:
        entries = self._csv() if self._listing.suffix.lower() == ".csv" else self._lines()
        for position, (line, fields) in enumerate(entries):
            where = f"{self._listing.name}:{line}"
            if isinstance(fields, str):
                yield DataRow(position=position, where=where, reason=fields)
            else:
                yield confined(make_row(position, where, fields), self._folder)

    def image(self, item: Item) -> Image.Image:
        return read_inside(self._folder, item.image)

    def _lines(self) -> Iterator[tuple[int, dict[str, object] | str]]:
        with self._listing.open("rb") as stream:
            for entry in json_lines(stream):
                yield entry.number, entry.problem if entry.value is None else entry.value

    def _csv(self) -> Iterator[tuple[int, dict[str, object] | str]]:
        """Line on which a row starts, and its columns; `questions` may hold JSON."""
        # What is not UTF-8 becomes a lone surrogate, for which the row is quarantined.
        with self._listing.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            rows = csv.reader(stream, strict=True)
            header = self._header(rows)
            while True:
                line = rows.line_num + 1
                try:
                    row = next(rows, None)
                except csv.Error as error:
                    yield line, f"CSV is malformed: {error}"
                    continue
                if row is None:
                    return
                if not row:
                    continue
                if len(row) == len(header):
                    yield line, {name: value for name, value in zip(header, row, strict=True) if value}
                else:
                    yield line, f"{len(row)} columns where the header has {len(header)}"

    def _header(self, rows: Iterator[list[str]]) -> list[str]:
        try:
            header = [name.strip() for name in next(rows, [])]
        except csv.Error as error:
            raise DataError(f"{self._listing}: CSV is malformed: {error}") from error
        for names in (IMAGE, CAPTION):
            if not set(names) & set(header):
                raise DataError(
                    f"{self._listing}: no column {' or '.join(names)}; its columns are {', '.join(header)}"
                )
        return header
