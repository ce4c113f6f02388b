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


class JsonObject(Record):
    """One object of a file, or the reason why there is none here."""

    number: int
    """Line, or ordinal of the object, from 1."""
    value: dict[str, Any] | None
    problem: str = ""


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


def json_lines(stream: BinaryIO) -> Iterator[JsonObject]:
    """One object a line; blank lines are passed over."""
    number = 0
    while line := stream.readline(MAX_OBJECT + 1):
        number += 1
        large = len(line) > MAX_OBJECT
        while large and not line.endswith(b"\n") and (line := stream.readline(MAX_OBJECT)):
            pass
        if large:
            yield JsonObject(number=number, value=None, problem=TOO_LARGE)
        elif text := line.removeprefix(BYTE_ORDER_MARK if number == 1 else b"").strip():
            yield json_object(number, decode_object(text))


def json_object(number: int, decoded: dict[str, Any] | str) -> JsonObject:
    """What `decode_object` gave, with its place."""
    if isinstance(decoded, str):
        return JsonObject(number=number, value=None, problem=decoded)
    return JsonObject(number=number, value=decoded)
