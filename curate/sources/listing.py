"""A folder of images with a listing: JSON lines, or CSV as the imagefolder layout has it."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from curate.sources.annotations import AnnotationReader
from curate.sources.fields import CAPTION, IMAGE, Fields
from curate.sources.json_text import json_lines
from engine.errors import DataError

LISTINGS = ("items.jsonl", "metadata.jsonl", "metadata.csv", "captions.csv")


class ListingReader(AnnotationReader):
    """Rows of one listing."""

    def _entries(self) -> Iterator[tuple[str, Fields | str]]:
        return self._csv() if self._file.suffix.lower() == ".csv" else json_lines(self._file)

    def _csv(self) -> Iterator[tuple[str, Fields | str]]:
        """A row stands where its first line does; its column `questions` may hold JSON."""
        # What is not UTF-8 becomes a lone surrogate, for which the row is quarantined.
        with self._file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            rows = csv.reader(stream, strict=True)
            header = self._header(rows)
            while True:
                where = f"{self._file.name}:{rows.line_num + 1}"
                try:
                    row = next(rows, None)
                except csv.Error as error:
                    yield where, f"CSV is malformed: {error}"
                    continue
                if row is None:
                    return
                if not row:
                    continue
                if len(row) == len(header):
                    yield where, {name: value for name, value in zip(header, row, strict=True) if value}
                else:
                    yield where, f"{len(row)} columns where the header has {len(header)}"

    def _header(self, rows: Iterator[list[str]]) -> list[str]:
        try:
            header = [name.strip() for name in next(rows, [])]
        except csv.Error as error:
            raise DataError(f"{self._file}: CSV is malformed: {error}") from error
        for names in (IMAGE, CAPTION):
            if not set(names) & set(header):
                raise DataError(
                    f"{self._file}: no column {' or '.join(names)}; its columns are {', '.join(header)}"
                )
        return header
