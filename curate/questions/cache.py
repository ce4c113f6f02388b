"""What a language model said, kept in a file, so that an interrupted run does not ask again.

One JSON object a line: {"key", "text"}. The key digests all that is known to decide the text: the endpoint,
the model's name there, and the whole request.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from curate.protocol import TextModel
from curate.scoring.endpoint import Request
from engine.errors import DataError
from engine.records import Record


class CachedText(Record):
    """One line of the file."""

    key: str
    text: str


class TextCache:
    """The append-only file. Only the places of its lines are in memory, about 200 bytes each.

    A line that a kill has torn is cut off when the file is opened. A line that cannot be read is passed over:
    what it held is asked again.

    Raises (constructor):
        DataError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, int] = {}
        self._decoder = msgspec.json.Decoder(CachedText)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+b")
        except OSError as error:
            raise DataError(
                f"{path}: cannot be opened: {error}; the answers of the model go there"
            ) from error
        self._index()

    def _index(self) -> None:
        place = 0
        self._stream.seek(0)
        for line in self._stream:
            if not line.endswith(b"\n"):
                self._stream.truncate(place)
                break
            with suppress(msgspec.MsgspecError):
                self._places[self._decoder.decode(line).key] = place
            place += len(line)

    def get(self, key: str) -> str | None:
        """What was said under a key."""
        place = self._places.get(key)
        if place is None:
            return None
        self._stream.seek(place)
        return self._decoder.decode(self._stream.readline()).text

    def add(self, said: Iterable[CachedText]) -> None:
        """Keeps what was said, and waits until it is on disk."""
        place = self._stream.seek(0, os.SEEK_END)
        for one in said:
            line = msgspec.json.encode(one) + b"\n"
            self._stream.write(line)
            self._places[one.key] = place
            place += len(line)
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


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
            said = [CachedText(key=key, text=text) for key, text in zip(waiting, texts, strict=True)]
            self._cache.add(said)
            found.update((one.key, one.text) for one in said)
        self.asked += len(waiting)
        self.cached += len(requests) - len(waiting)
        return [found[key] or "" for key in keys]


def _key(origin: object, request: Request) -> str:
    whole = msgspec.msgpack.encode((origin, request))
    return hashlib.blake2b(whole, digest_size=16).hexdigest()
