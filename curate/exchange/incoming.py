"""Rows of other tools as pairs that are not yet tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from curate.exchange.pictures import is_picture_name
from engine.records import Preference, Record

OFFICIAL_THRESHOLD = 0.6
"""What a winning image must exceed; of rows that fail, the official script writes another item's images."""
FILTERED = f"image scores are equal or not above {OFFICIAL_THRESHOLD}: such rows name another item's images"
ABSENT = "none in the imported rows"


class UnusableError(ValueError):
    """Why a row, or one side of it, cannot be used. Never leaves this package."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        """Without names, for counting."""


class Picture(Record):
    """An image: a file's name, or the file itself."""

    name: str = ""
    data: bytes = b""


class Written(Record):
    """Two captions of one image, and their scores."""

    win: str
    lose: str
    scores: tuple[float, float]


class GeneratedImages(Record):
    """Two images of one caption, and their scores."""

    win: Picture
    lose: Picture
    scores: tuple[float, float]


class Incoming(Record):
    """A row that has been read. A side that is text says why the row does not have it."""

    id: str
    """Empty where the row has none."""
    caption: str
    image: Picture | None
    captions: Written | str
    images: GeneratedImages | str
    record: Preference | None = None
    """The native record, where the row holds it."""
    tokenizers: str = ""
    """Digest of those that made the record; empty where that is not known."""
    features: bytes = b""


Fields = Mapping[str, Any]
Reader = Callable[[Fields], Incoming]
Side = TypeVar("Side")


def official(fields: Fields) -> Incoming:
    """A row of `pair_dpo_data.json`.

    Image pairs that fail the script's own filter are not taken, unless the row was exported by Hermes.
    """
    found = _two_sided(fields)
    if isinstance(found.images, GeneratedImages) and not is_picture_name(found.images.win.name):
        win, lose = found.images.scores
        if win == lose or win <= OFFICIAL_THRESHOLD:
            return msgspec.structs.replace(found, images=FILTERED)
    return found


def table(fields: Fields) -> Incoming:
    """A row of our own table, or of one with its columns. A record counts while the columns say the same."""
    found = _two_sided(fields)
    text = fields.get("record")
    if not isinstance(text, str):
        return found
    try:
        record = msgspec.json.decode(text, type=Preference)
    except msgspec.MsgspecError as error:
        raise UnusableError("its record is none", str(error)) from error
    if not _agrees(record, fields):
        return found
    features = fields.get("features")
    return msgspec.structs.replace(
        found,
        record=record,
        tokenizers=str(fields.get("tokenizers") or ""),
        features=features if isinstance(features, bytes) else b"",
    )


def native(fields: Fields) -> Incoming:
    """A native record."""
    try:
        record = msgspec.convert(fields, Preference)
    except msgspec.ValidationError as error:
        raise UnusableError("not a native record", str(error)) from error
    return Incoming(record.id, record.caption, None, ABSENT, ABSENT, record)


def trl(fields: Fields) -> Incoming:
    """TRL's preference type with one image: messages or plain text."""
    images = next((fields[name] for name in ("images", "file_names", "image") if fields.get(name)), None)
    images = images if isinstance(images, list) else [images]
    if len(images) != 1 or images[0] is None:
        raise UnusableError("needs exactly one image", f"has {len(images) if images[0] else 0}")
    return Incoming("", "", picture(images[0]), _written(fields, "chosen", "rejected"), ABSENT)


def align_anything(fields: Fields) -> Incoming:
    """A row of either task of align-anything; `prompt` may stand for `question`."""
    if "better_image" in fields or "worse_image" in fields:
        images = _generated(fields, "better_image", "worse_image")
        return Incoming("", _text(fields.get("prompt"), "the prompt"), None, ABSENT, images)
    captions = _written(fields, "better_response", "worse_response")
    return Incoming("", "", picture(fields.get("image")), captions, ABSENT)


READERS: dict[str, Reader] = {
    "official": official,
    "trl": trl,
    "align-anything": align_anything,
    "parquet": table,
    "native": native,
}
_TELLING = {
    "image_codes": "native",
    "record": "parquet",
    "img_path": "official",
    "better_image": "align-anything",
    "better_response": "align-anything",
    "chosen": "trl",
    "caption_win": "parquet",
    "image_win": "parquet",
}
"""Field -> the format that has it; the first that is there decides."""


def told_format(fields: Fields) -> str:
    """The format of a row, from its fields; empty where none has them."""
    return next((form for name, form in _TELLING.items() if name in fields), "")


def picture(value: object) -> Picture:
    """An image of a row: a name, a file's bytes, or Hugging Face's `{bytes, path}`."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return Picture(data=value)
    if isinstance(value, str) and value.strip():
        return Picture(name=value)
    raise UnusableError("an image is missing")


def _two_sided(fields: Fields) -> Incoming:
    own = fields.get("id")
    caption = _optional(fields.get("caption"))
    x = fields.get("image") or fields.get("img_path")
    captions: Written | str = ABSENT
    if _any(fields, "caption_win", "caption_lose"):
        captions = _side(lambda: _written(fields, "caption_win", "caption_lose", "bert_score"))
    images: GeneratedImages | str = ABSENT
    if _any(fields, "image_win", "image_lose"):
        images = _side(lambda: _generated(fields, "image_win", "image_lose", "vqa_score"))
    return Incoming(
        id=str(own) if isinstance(own, str | int) and not isinstance(own, bool) else "",
        caption=caption,
        image=picture(x) if x else None,
        captions=captions,
        images=images,
    )


def _side(read: Callable[[], Side]) -> Side | str:
    try:
        return read()
    except UnusableError as error:
        return str(error)


def _any(fields: Fields, *names: str) -> bool:
    return any(fields.get(name) is not None for name in names)


def _agrees(record: Preference, fields: Fields) -> bool:
    """Whether the texts of a row are still those of its record."""
    pair = record.captions
    texts = (pair.win.text, pair.lose.text) if pair else (None, None)
    columns = [fields.get(name) for name in ("id", "caption", "caption_win", "caption_lose")]
    return [record.id, record.caption, *texts] == columns


def _written(fields: Fields, win: str, lose: str, score: str = "") -> Written:
    sides = [_text(_last(fields.get(name)), "a caption") for name in (win, lose)]
    if sides[0] == sides[1]:
        raise UnusableError("winner and loser are the same caption")
    return Written(sides[0], sides[1], _scores(fields, score))


def _generated(fields: Fields, win: str, lose: str, score: str = "") -> GeneratedImages:
    return GeneratedImages(picture(fields.get(win)), picture(fields.get(lose)), _scores(fields, score))


def _scores(fields: Fields, name: str) -> tuple[float, float]:
    """Those of the row; else 1 for the winner and 0 for the loser."""
    given = [fields.get(f"{name}_{side}") for side in ("win", "lose")]
    if not name or given == [None, None]:
        return 1.0, 0.0
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in given):
        raise UnusableError("a score is not a number", repr(given))
    win, lose = (float(one) for one in given if one is not None)
    if win < lose:
        raise UnusableError("the winner scores lower than the loser", f"{win} and {lose}")
    return win, lose


def _last(value: object) -> object:
    """The text of the last message, where a value is messages."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        value = value[-1]
    if isinstance(value, Mapping):
        value = value.get("content")
    if isinstance(value, list):
        parts = [one for one in value if isinstance(one, Mapping) and one.get("type") == "text"]
        value = " ".join(str(one.get("text")) for one in parts)
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise UnusableError(f"{what} is missing" if value is None else f"{what} is not text")
    if not (text := value.strip()):
        raise UnusableError(f"{what} is empty")
    return text


def _optional(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
