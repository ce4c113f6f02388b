"""Questions from a TIFA file in place of, or beside, those of a data set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from curate.questions.tifa import read_tifa
from curate.questions.validation import Sifted, sifted
from engine.errors import DataError
from engine.records import Item, Question


class Lookup:
    """The questions of a file, all in memory (about 1 KB each), by item."""

    def __init__(self, named: Mapping[tuple[str, str], Sequence[Question]], bad: Sequence[str]) -> None:
        """`named` has the questions under (id, caption), either of which may be empty."""
        self._named = {key: sifted(questions) for key, questions in named.items()}
        self.bad = tuple(bad)
        """The rows that could not be read."""
        of_caption: dict[str, list[Question]] = {}
        for (_, caption), found in self._named.items():
            if caption:
                of_caption.setdefault(caption, []).extend(found.kept)
        self._captioned = {caption: sifted(questions).kept for caption, questions in of_caption.items()}

    @property
    def rejected(self) -> dict[str, int]:
        """Why questions of the file may not be asked, and how many."""
        counts: Counter[str] = Counter()
        for found in self._named.values():
            counts.update(found.rejected)
        return dict(counts)

    def of(self, item: Item) -> tuple[Question, ...]:
        """The questions of an item: those under its id, else those under its caption; none if unknown.

        Rows that bear the id but another caption belong to another data set and are not taken.
        """
        caption = _plain(item.caption)
        found: Sifted | None = self._named.get((item.id, caption)) or self._named.get((item.id, ""))
        return found.kept if found else self._captioned.get(caption, ())

    def covers(self, item: Item) -> bool:
        """Whether the file has a question about an item."""
        return bool(self.of(item))


def questions_from(path: Path) -> Lookup:
    """A file written by `hermes questions`, or any in TIFA's format.

    Raises:
        DataError: the file cannot be read, or holds no question.
    """
    file = read_tifa(path)
    named: dict[tuple[str, str], list[Question]] = {}
    for row in file.rows:
        named.setdefault((str(row.id), _plain(row.caption)), []).append(row.question)
    return Lookup(named, file.bad)


def with_questions(item: Item, lookup: Lookup, combine: bool) -> Item:
    """The item with the file's questions, or with its own first and then the file's, none twice."""
    found = lookup.of(item)
    questions = sifted((*item.questions, *found)).kept if combine else found
    return msgspec.structs.replace(item, questions=questions)


def questions_digest(file: str, combine: bool) -> str:
    """Which questions a curation asks: sixteen hex digits of the file; empty where there is none.

    Raises:
        DataError: the file cannot be read.
    """
    if not file:
        return ""
    try:
        with Path(file).open("rb") as stream:
            digest = hashlib.file_digest(stream, partial(hashlib.blake2b, digest_size=8)).hexdigest()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}; give a file of TIFA questions") from error
    return f"{digest} and the data set's own" if combine else digest


def _plain(caption: str) -> str:
    return " ".join(caption.split())
