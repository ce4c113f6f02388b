"""JSON as other programs write it: one object, or one a line, with bounds on what is taken into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from engine.records import Record

MAX_OBJECT = 8 << 20
"""Bytes of one object; a larger one is taken for damaged."""
TOO_LARGE = f"more than {MAX_OBJECT >> 20} MiB in one row"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Found(Record):
    """One object of a file, or the reason why there is none here."""

    number: int
    """Line, or ordinal of the object, from 1."""
    value: dict[str, Any] | None
    problem: str = ""
    start: int = 0
    end: int = 0
    """Bytes of the file that hold it."""


def decode_object(data: bytes) -> dict[str, Any] | str:
    """An object, or why it is none. NaN and infinities are taken, as Python writes them."""
    try:
        value = msgspec.json.decode(data)
    except msgspec.MsgspecError as error:
        try:
            value = json.loads(data.decode())
        except (ValueError, RecursionError):
            return str(error)
    except RecursionError:
        return "JSON is nested too deeply"
    return value if isinstance(value, dict) else "not a JSON object"


def json_lines(stream: BinaryIO) -> Iterator[Found]:
    """One object a line; blank lines are passed over."""
    number, start = 0, 0
    while line := stream.readline(MAX_OBJECT + 1):
        number += 1
        large = len(line) > MAX_OBJECT
        end = start + len(line)
        while large and not line.endswith(b"\n") and (line := stream.readline(MAX_OBJECT)):
            end += len(line)
        if large:
            yield Found(number, None, TOO_LARGE, start, end)
        elif text := line.removeprefix(BYTE_ORDER_MARK if number == 1 else b"").strip():
            value = decode_object(text)
            problem = value if isinstance(value, str) else ""
            yield Found(number, None if isinstance(value, str) else value, problem, start, end)
        start = end
