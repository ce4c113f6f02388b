"""What a language model said, kept in a file, so that an interrupted run does not ask again.

One JSON object a line: {"key", "text"}. The key digests all that decides the text: the model's fingerprint,
the whole prompt (its wording, examples and caption), and the sampling settings.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from curate.protocol import TextModel
from engine.errors import DataError
from engine.records import Record, TextPrompt


class Said(Record):
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
        self._decoder = msgspec.json.Decoder(Said)
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

    def add(self, said: Iterable[Said]) -> None:
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


class Remembering:
    """A text model that is asked only what the cache does not hold; it counts both.

    It serves what is in the cache after its model was closed.
    """

    def __init__(self, model: TextModel, cache: TextCache) -> None:
        self._model, self._cache = model, cache
        self.asked = 0
        """Prompts that the model went on from."""
        self.cached = 0

    @property
    def fingerprint(self) -> str:
        """The model's."""
        return self._model.fingerprint

    @property
    def reserved(self) -> tuple[str, ...]:
        """The model's."""
        return self._model.reserved

    def generate(
        self,
        prompts: Sequence[TextPrompt],
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """`TextModel.generate`; equal prompts are asked once."""
        settings = (max_tokens, tuple(stop), temperature, seed if temperature else 0)
        keys = [_key(self.fingerprint, prompt, settings) for prompt in prompts]
        found = {key: self._cache.get(key) for key in keys}
        waiting = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if found[key] is None}
        if waiting:
            texts = self._model.generate(list(waiting.values()), max_tokens, stop, temperature, seed)
            said = [Said(key=key, text=text) for key, text in zip(waiting, texts, strict=True)]
            self._cache.add(said)
            found.update((one.key, one.text) for one in said)
        self.asked += len(waiting)
        self.cached += len(prompts) - len(waiting)
        return [found[key] or "" for key in keys]


def _key(fingerprint: str, prompt: TextPrompt, settings: object) -> str:
    whole = msgspec.msgpack.encode((fingerprint, prompt, settings))
    return hashlib.blake2b(whole, digest_size=16).hexdigest()
