"""The official `initial_data.json`, with the questions of a `vqa_data.json` beside it.

An object is {id, img_path, prompt, caption}; the caption conditions generation, and the prompt is kept. Other
JSON arrays with the usual fields are read just so.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from curate.sources.confine import read_inside
from curate.sources.digest import files_digest
from curate.sources.fields import CAPTION, ID, Fields, first_of, make_row
from curate.sources.json_objects import json_objects
from curate.sources.json_text import Found, decode_object
from curate.sources.listing import confined
from curate.sources.rows import Row
from engine.records import Item

INITIAL, QUESTIONS = "initial_data.json", "vqa_data.json"


class OfficialReader:
    """Objects of one array; image paths are relative to its folder."""

    oracle = is_split = False

    def __init__(self, array_file: Path, name: str) -> None:
        self.name = name
        self._file, self._folder = array_file, array_file.parent
        questions = self._folder / QUESTIONS
        self._questions = QuestionFile(questions) if questions.is_file() and questions != array_file else None

    def digest(self) -> str:
        return files_digest([self._file, *([self._questions.path] if self._questions else [])])

    def rows(self) -> Iterator[Row]:
        """The items; then the damaged objects of the file of questions."""
        position = 0
        with self._file.open("rb") as stream:
            for found in json_objects(stream):
                yield self._row(position, found)
                position += 1
        for found in self._questions.damaged() if self._questions else ():
            where = f"{QUESTIONS}:object {found.number}"
            yield Row(position=position, where=where, reason=found.problem)
            position += 1

    def image(self, item: Item) -> Image.Image:
        return read_inside(self._folder, item.image)

    def _row(self, position: int, found: Found) -> Row:
        where = f"{self._file.name}:object {found.number}"
        if found.value is None:
            return Row(position=position, where=where, reason=found.problem)
        fields = found.value
        if self._questions is not None:
            fields = {**fields, "questions": self._questions.of(fields) or fields.get("questions")}
        return confined(make_row(position, where, fields), self._folder)


class QuestionFile:
    """A file of one object a question, {id, caption, question, choices, answer}, found by id or by caption.

    The order of its objects need not be that of the items. An index in memory holds 48 bytes a question; the
    questions themselves stay on disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._is_damaged = False

    def of(self, item: Fields) -> list[Fields]:
        """The questions with an item's id, unless they state another caption; else those with its caption."""
        own, caption = _plain(item.get(ID)), _plain(first_of(item, CAPTION))
        with self.path.open("rb") as stream:
            by_id = [one for one in self._read(stream, "id", own) if _plain(one.get(ID)) == own]
            found = [one for one in by_id if _plain(one.get("caption")) in ("", caption)]
            if not found:
                same = self._read(stream, "caption", caption)
                found = [one for one in same if _plain(one.get("caption")) == caption]
        return found

    def damaged(self) -> Iterator[Found]:
        """Objects that cannot be read, and those that name neither an id nor a caption."""
        self._load()
        if not self._is_damaged:
            return
        with self.path.open("rb") as stream:
            for found in json_objects(stream):
                if problem := _problem(found):
                    yield Found(found.number, None, problem)

    def _read(self, stream: BinaryIO, kind: str, value: str) -> Iterator[Fields]:
        if not value:
            return
        keys, starts, ends = self._load()
        key = np.uint64(_key(kind, value))
        for place in range(np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")):
            stream.seek(int(starts[place]))
            found = decode_object(stream.read(int(ends[place]) - int(starts[place])))
            if isinstance(found, dict):
                yield found

    def _load(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._index is None:
            keys, starts, ends = array("Q"), array("Q"), array("Q")
            with self.path.open("rb") as stream:
                for found in json_objects(stream):
                    if _problem(found) or found.value is None:
                        self._is_damaged = True
                        continue
                    for kind in ("id", "caption"):
                        if value := _plain(found.value.get(kind)):
                            keys.append(_key(kind, value))
                            starts.append(found.start)
                            ends.append(found.end)
            sorted_keys = np.array(keys, np.uint64)
            order = np.argsort(sorted_keys, kind="stable")
            self._index = (
                sorted_keys[order],
                np.array(starts, np.uint64)[order],
                np.array(ends, np.uint64)[order],
            )
        return self._index


def _problem(found: Found) -> str:
    if found.value is None:
        return found.problem
    named = _plain(found.value.get(ID)) or _plain(found.value.get("caption"))
    return "" if named else "the question names neither an id nor a caption"


def _plain(value: object) -> str:
    """An id or a caption for comparison."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return " ".join(value.split()) if isinstance(value, str) else ""


def _key(kind: str, value: str) -> int:
    text = f"{kind}\0{value}".encode(errors="surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
