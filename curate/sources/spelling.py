"""How tools spell the fields of a row: names in any case, captions in lists or conversations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Fields = Mapping[str, Any]

ID = "id"
IMAGE = (
    *("image", "file_name", "img_path", "image_path", "image_name"),
    *("filepath", "file_path", "filename"),
)
CAPTION = ("caption", "text", "captions", "title", "comment")
SHARED = ("image_id", "img_id", "cocoid")
"""What the rows of one image have in common where the image itself has no name."""
REPLIES = "conversations"
OTHERS = (
    *("prompt", "category", "objects", REPLIES, *SHARED),
    *("questions", "question", "choices", "options", "answer", "kind", "element_type", "answer_type"),
)
CAPTION_NAMES, IMAGE_NAMES = f"caption ({', '.join(CAPTION)})", f"image ({', '.join(IMAGE)})"
_ADDRESS = ("url", "image_url", "coco_url")
ADDRESSES = "; addresses (url) are not followed: download the images first, for instance with img2dataset"


def first_of(fields: Fields, names: Iterable[str]) -> Any:
    """The value of the first name that has one; empty text counts only where no other name has any."""
    given = [value for name in names if (value := fields.get(name)) is not None]
    filled = (value for value in given if not isinstance(value, str) or value.strip())
    return next(filled, given[0] if given else None)


def plain(fields: Fields) -> dict[str, Any]:
    """A row with its names as they are looked up."""
    return {name: fields[own] for name, own in lower(fields).items()}


def lower(names: Iterable[str]) -> dict[str, str]:
    """Names as a file has them, by how they are looked up; of two that differ by case, the lower one."""
    found = {name.strip().lower(): name for name in names}
    return {**found, **{name: name for name in found if name in found.values()}}


def missing_column(columns: Iterable[str]) -> str:
    """Why a table of these columns cannot be read; empty where it has an image and a caption."""
    names = list(columns)
    known = lower(names)
    if not any(name in known for name in IMAGE):
        missing = IMAGE_NAMES
    elif not any(name in known for name in (*CAPTION, REPLIES)):
        missing = CAPTION_NAMES
    else:
        return ""
    return f"no column for the {missing}; its columns are {', '.join(names)}{address_hint(known)}"


def address_hint(fields: Iterable[str]) -> str:
    """What to do with a row that has an address in place of an image; empty where it has none."""
    return ADDRESSES if any(name.lower() in _ADDRESS for name in fields) else ""


def spelled(fields: Fields) -> list[Fields]:
    """A row under our names, once for each of its captions."""
    row = plain(fields)
    captions = first_of(row, CAPTION)
    captions = _reply(row.get(REPLIES)) if captions is None else captions
    several = captions if isinstance(captions, list) and captions else [captions]
    return [{**row, "caption": caption} for caption in several]


def _reply(turns: object) -> str | None:
    """The first answer of a conversation about an image."""
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, Mapping) and first_of(turn, ("from", "role")) in ("gpt", "assistant"):
            text = first_of(turn, ("value", "content"))
            return text.replace("<image>", "").strip() if isinstance(text, str) else None
    return None
