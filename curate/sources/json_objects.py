r"""The objects of a JSON array, one at a time, however the array was left.

The official scripts append `{...},\n` and close no bracket, and a killed one leaves half an object. So what
stands between objects may be missing or too much; what is no object is reported, and reading goes on at the
next thing that looks like the start of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from curate.sources.json_text import BYTE_ORDER_MARK, MAX_OBJECT, TOO_LARGE, decode_object

CHUNK = 1 << 16
_BETWEEN = re.compile(rb"[\s,\[\]]*+")
_PART = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{}]', re.DOTALL)
"""A string, which may go on beyond what is held, or a brace."""
_NEXT = re.compile(rb"[\n,]\s*+(?=\{)")
"""Where a new object may start after a damaged one."""
_BRACE = re.compile(rb"(?=\{)")
_KEPT = 64
"""Bytes that are searched again together with those that follow."""


def json_objects(
    stream: BinaryIO, chunk: int = CHUNK, most: int = MAX_OBJECT
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The objects of a file, numbered from 1; in place of one that cannot be read, why.

    `chunk` bytes or an object of up to `most` bytes are held at a time.
    """
    window = _Window(stream, chunk, most)
    number = 0
    while window.skip_separators():
        number += 1
        yield number, window.take()


class _Window:
    """What has been read of a stream and is still of use: the buffer from `_at` on."""

    def __init__(self, stream: BinaryIO, chunk: int, most: int) -> None:
        self._stream, self._chunk, self._most = stream, chunk, most
        first = stream.read(max(chunk, len(BYTE_ORDER_MARK)))
        self._buffer, self._at = first.removeprefix(BYTE_ORDER_MARK), 0

    def _more(self) -> bool:
        # At least as much again as is held, so that a long object is looked through a few times only.
        data = self._stream.read(max(self._chunk, len(self._buffer) - self._at))
        self._buffer, self._at = self._buffer[self._at :] + data, 0
        return bool(data)

    def skip_separators(self) -> bool:
        """Moves to the next thing that is more than a separator; whether there is one."""
        while True:
            between = _BETWEEN.match(self._buffer, self._at)
            self._at = between.end() if between else self._at
            if self._at < len(self._buffer):
                return True
            if not self._more():
                return False

    def take(self) -> dict[str, Any] | str:
        """The object that starts here, or why there is none; moves behind it."""
        if not self._buffer.startswith(b"{", self._at):
            self._skip_to(_BRACE)
            return "not a JSON object"
        length, value = self._object()
        if isinstance(value, str):
            self._skip_to(_NEXT, within=length)
        else:
            self._at += length
        return value

    def _object(self) -> tuple[int, dict[str, Any] | str]:
        """Length and value of the object that starts here; length 0, and why, where it does not end."""
        while not (length := self._length()):
            if len(self._buffer) - self._at > self._most:
                return 0, TOO_LARGE
            if not self._more():
                return 0, "the object has no end: the file is torn, or a quotation mark is missing"
        if length > self._most:
            return length, TOO_LARGE
        return length, decode_object(self._buffer[self._at : self._at + length])

    def _length(self) -> int:
        """Up to the brace that closes the first one; 0 where it is not in the buffer."""
        depth = 0
        for part in _PART.finditer(self._buffer, self._at):
            brace = part.group()
            if brace == b"{":
                depth += 1
            elif brace == b"}":
                depth -= 1
                if not depth:
                    return part.end() - self._at
        return 0

    def _skip_to(self, mark: re.Pattern[bytes], within: int = 0) -> None:
        """Moves behind the next match, or to the end; where a length is given, no further than that."""
        if within:
            match = mark.search(self._buffer, self._at + 1, self._at + within)
            self._at = match.end() if match else self._at + within
            return
        first = self._at + 1
        while not (match := mark.search(self._buffer, first)):
            self._at = first = max(self._at, len(self._buffer) - _KEPT)
            if not self._more():
                self._at = len(self._buffer)
                return
            first = self._at
        self._at = match.end()
