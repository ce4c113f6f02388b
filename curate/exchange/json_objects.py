"""The objects of a JSON array or of JSON lines, one at a time, however the file was left.

The official scripts append `{...},\\n` and close no bracket, and a killed one leaves half an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from engine.records import Record

CHUNK = 1 << 16
MAX_OBJECT = 8 << 20
"""Bytes of one object; a larger one is taken for damaged."""
_PART = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[{}]', re.DOTALL)
"""A string, with whether it is closed, or a brace."""
_NEXT = re.compile(rb"[\n,]\s*+(?=\{)")
"""Where a new object may start after a damaged one."""


class Found(Record):
    """One object of a file, or the reason why there is none here."""

    number: int
    """Ordinal, from 1."""
    value: dict[str, Any] | None
    problem: str = ""


def json_objects(stream: BinaryIO, chunk: int = CHUNK) -> Iterator[Found]:
    """The objects of a file in order; what stands between them may be missing or too much."""
    buffer, ended, number = b"", False, 0
    while True:
        start = buffer.find(b"{")
        length = _length(buffer, start) if start >= 0 else 0
        if not length and not ended and len(buffer) - max(start, 0) <= MAX_OBJECT:
            more = stream.read(max(chunk, len(buffer)))
            buffer, ended = (buffer[start:] if start >= 0 else b"") + more, not more
            continue
        if start < 0:
            return
        number += 1
        value = _decoded(buffer[start : start + length]) if length else "the object has no end"
        if isinstance(value, str):
            yield Found(number, None, value)
            end = start + length if length else len(buffer)
            found = _NEXT.search(buffer, start + 1, end)
            buffer = buffer[found.end() if found else end :]
        else:
            yield Found(number, value)
            buffer = buffer[start + length :]


def _length(buffer: bytes, start: int) -> int:
    """From the brace at `start` to the one that closes it; 0 where it is not in the buffer."""
    depth = 0
    for part in _PART.finditer(buffer, start):
        brace = part.group()
        if brace == b"{":
            depth += 1
        elif brace == b"}":
            depth -= 1
            if not depth:
                return part.end() - start
        elif not part.group(1):
            return 0
    return 0


def _decoded(data: bytes) -> dict[str, Any] | str:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return str(error)
