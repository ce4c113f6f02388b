"""A JSON file that is one object: COCO's images and annotations, a list of rows, or captions by image name.

It is held in memory whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from curate.sources.confine import ENDINGS
from curate.sources.json_text import BYTE_ORDER_MARK, decode_object
from curate.sources.spelling import CAPTION, CAPTION_NAMES, ID, REPLIES, Fields, lower
from engine.errors import UNREADABLE, DataError

_Tree = dict[str, msgspec.Raw]
_ROWS, _IMAGES = ("annotations", "data", "rows", "items"), "images"


def is_object_file(file: Path) -> bool:
    """Whether a file is one object that holds rows.

    Raises:
        DataError: it is, but its rows have no captions.
    """
    try:
        tree = msgspec.json.decode(_content(file), type=_Tree)
    except UNREADABLE:
        return False
    name = _row_list(tree)
    first = next((_decoded(raw) for raw in _list(tree, name)), {}) if name else {}
    if isinstance(first, dict) and first and not any(one in lower(first) for one in (*CAPTION, REPLIES)):
        raise DataError(f"{file}: its {name} have the fields {', '.join(first)[:80]}, no {CAPTION_NAMES}")
    return bool(name) or next(iter(tree), "").lower().endswith(ENDINGS)


def object_entries(files: Sequence[Path]) -> Iterator[tuple[str, Fields | str]]:
    """The rows of such files: COCO's annotations with the image that their `image_id` names."""
    for file in files:
        try:
            tree = msgspec.json.decode(_content(file), type=_Tree)
        except UNREADABLE as error:
            raise DataError(f"{file}: {error}") from error
        yield from _rows_of_list(file.name, tree) if _row_list(tree) else _rows_of_names(file.name, tree)


def _rows_of_list(file: str, tree: _Tree) -> Iterator[tuple[str, Fields | str]]:
    name, images = _row_list(tree), {}
    for found in map(_decoded, _list(tree, _IMAGES)):
        if isinstance(found, dict):
            images[str(found.pop(ID, None))] = found
    for number, fields in enumerate(map(_decoded, _list(tree, name)), 1):
        if isinstance(fields, dict):
            fields = {**images.get(str(fields.get("image_id")), {}), **fields}
        yield f"{file}:{name} {number}", fields


def _rows_of_names(file: str, tree: _Tree) -> Iterator[tuple[str, Fields | str]]:
    for image, caption in tree.items():
        fields = decode_object(b'{"caption": %b}' % bytes(caption))
        yield f"{file}:{image}", {**fields, "image": image} if isinstance(fields, dict) else fields


def _content(file: Path) -> bytes:
    return file.read_bytes().removeprefix(BYTE_ORDER_MARK)


def _row_list(tree: _Tree) -> str:
    """The name under which the rows stand; empty where no list is known by its name."""
    return next((name for name in _ROWS if _list(tree, name)), "")


def _list(tree: _Tree, name: str) -> list[msgspec.Raw]:
    value = memoryview(tree.get(name, b""))
    return msgspec.json.decode(value, type=list[msgspec.Raw]) if bytes(value[:1]) == b"[" else []


def _decoded(raw: msgspec.Raw) -> dict[str, Any] | str:
    return decode_object(bytes(raw))
