"""What a language model said, kept in a file, so that an interrupted run does not ask again."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from curate.protocol import TextModel
from curate.scoring.endpoint import Request
from engine.errors import DataError


class TextCache:
    """A SQLite file of texts by keys. A key digests all that is known to decide its text: the endpoint, the
    model's name there, and the whole request.

    Raises (also constructor):
        DataError: the file cannot be opened, read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._usable():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path)
            self._file.execute("CREATE TABLE IF NOT EXISTS said (key TEXT PRIMARY KEY, text TEXT)")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"{self._path}: cannot be used: {error}; the answers of the model go there"
            ) from error

    def get(self, key: str) -> str | None:
        """What was said under a key."""
        with self._usable():
            row = self._file.execute("SELECT text FROM said WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def add(self, said: Mapping[str, str]) -> None:
        """Keeps texts by keys, and waits until they are on disk."""
        with self._usable(), self._file:
            self._file.executemany("INSERT OR REPLACE INTO said VALUES (?, ?)", said.items())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class CachedTextModel:
    """A text model that is asked only what the cache does not hold; it counts both."""

    def __init__(self, model: TextModel, cache: TextCache) -> None:
        self._model, self._cache = model, cache
        self.asked = 0
        """Requests that the model answered."""
        self.cached = 0

    def texts(self, requests: Sequence[Request]) -> list[str]:
        """`TextModel.texts`; equal requests are sent once."""
        keys = [_key(self._model.origin, request) for request in requests]
        found = {key: self._cache.get(key) for key in keys}
        waiting = {key: one for key, one in zip(keys, requests, strict=True) if found[key] is None}
        if waiting:
            texts = self._model.texts(list(waiting.values()))
            said = dict(zip(waiting, texts, strict=True))
            self._cache.add(said)
            found.update(said)
        self.asked += len(waiting)
        self.cached += len(requests) - len(waiting)
        return [found[key] or "" for key in keys]


def _key(origin: object, request: Request) -> str:
    whole = msgspec.msgpack.encode((origin, request))
    return hashlib.blake2b(whole, digest_size=16).hexdigest()
