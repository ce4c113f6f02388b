"""JSON as other programs write it: one object, or one a line, with bounds on what is taken into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import UNREADABLE

MAX_OBJECT = 8 << 20
"""Bytes of one object; a larger one is taken for damaged."""
TOO_LARGE = f"more than {MAX_OBJECT >> 20} MiB in one row"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def decode_object(data: bytes) -> dict[str, Any] | str:
    """An object, or why it is none. NaN and infinities are taken, as Python writes them."""
    try:
        value = msgspec.json.decode(data)
    except RecursionError:
        return "JSON is nested too deeply"
    except UNREADABLE as error:
        try:
            value = json.loads(data.decode())
        except (ValueError, RecursionError):
            return str(error)
    return value if isinstance(value, dict) else "not a JSON object"


def json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """ "<file>:<line>" and `decode_object` of each line; blank lines are passed over."""
    number = 0
    with file.open("rb") as stream:
        while line := stream.readline(MAX_OBJECT + 1):
            number += 1
            large = len(line) > MAX_OBJECT
            while large and not line.endswith(b"\n") and (line := stream.readline(MAX_OBJECT)):
                pass
            text = line.removeprefix(BYTE_ORDER_MARK if number == 1 else b"").strip()
            if large or text:
                yield f"{file.name}:{number}", TOO_LARGE if large else decode_object(text)
