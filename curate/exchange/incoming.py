"""Rows of other tools as pairs that are not yet tokens, one reader a format."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from curate.exchange.pictures import is_picture_name
from curate.sources.fields import FieldError, as_text
from engine.errors import UNREADABLE
from engine.records import Preference, Record

OFFICIAL_THRESHOLD = 0.6
"""What a winning image must exceed; of rows that fail, the official script writes another item's images."""
FILTERED = f"image scores are equal or not above {OFFICIAL_THRESHOLD}: such rows name another item's images"
ABSENT = "none in the imported rows"
_OVERALL = ("overall_response", "overall_image")

Result = TypeVar("Result")
Fields = Mapping[str, Any]
Picture = str | bytes
"""An image: a file's name, or the file itself."""


class UnusableError(ValueError):
    """Why a row, or one of its pairs, cannot be used. Never leaves this package."""


def attempt(read: Callable[[], Result]) -> Result | str:
    """What is read, or why it cannot be used."""
    try:
        return read()
    except UnusableError as error:
        return str(error)


class IncomingPair(Record, Generic[Result]):
    """Two captions of one image, or two images of one caption, and their scores."""

    win: Result
    lose: Result
    scores: tuple[float, float]


class IncomingRow(Record, kw_only=True):
    """A row that has been read. A pair that is text says why the row does not have it."""

    id: str = ""
    caption: str = ""
    image: Picture | None = None
    captions: IncomingPair[str] | str = ABSENT
    images: IncomingPair[Picture] | str = ABSENT
    record: Preference | None = None
    """The native record, where the row holds it."""
    tokenizers: str = ""
    """Digest of those that made the record; empty where that is not known."""
    features: bytes = b""


def official(fields: Fields) -> IncomingRow:
    """A row of `pair_dpo_data.json`.

    Image pairs that fail the script's own filter are not taken, unless the row was exported by Hermes.
    """
    row = _both_pairs(fields)
    if not isinstance(row.images, str) and not is_picture_name(row.images.win):
        win, lose = row.images.scores
        if win == lose or win <= OFFICIAL_THRESHOLD:
            return msgspec.structs.replace(row, images=FILTERED)
    return row


def table(fields: Fields) -> IncomingRow:
    """A row of our own table, or of one with its columns. A record counts while the columns say the same."""
    row, text = _both_pairs(fields), fields.get("record")
    if not isinstance(text, str):
        return row
    try:
        record = msgspec.json.decode(text, type=Preference)
    except UNREADABLE as error:
        raise UnusableError(f"its record is none: {error}") from error
    pair = record.captions
    texts = [record.id, record.caption, *((pair.win.text, pair.lose.text) if pair else (None, None))]
    if texts != [fields.get(name) for name in ("id", "caption", "caption_win", "caption_lose")]:
        return row
    features = fields.get("features")
    return msgspec.structs.replace(
        row,
        record=record,
        tokenizers=str(fields.get("tokenizers") or ""),
        features=features if isinstance(features, bytes) else b"",
    )


def native(fields: Fields) -> IncomingRow:
    """A native record."""
    try:
        # Encoded, so that half surrogates and endless numbers, which could not be written, are found here.
        record = msgspec.json.decode(msgspec.json.encode(fields), type=Preference)
    except (*UNREADABLE, ValueError, OverflowError) as error:
        raise UnusableError(f"not a native record: {error}") from error
    return IncomingRow(id=record.id, caption=record.caption, record=record)


def trl(fields: Fields) -> IncomingRow:
    """TRL's preference type with one image: messages or plain text."""
    images = next((fields[name] for name in ("images", "file_names", "image") if fields.get(name)), None)
    images = images if isinstance(images, list) else [images]
    if len(images) != 1 or images[0] is None:
        raise UnusableError(f"needs exactly one image: has {len(images) if images[0] else 0}")
    return IncomingRow(image=_picture(images[0]), captions=_caption_pair(fields, "chosen", "rejected"))


def align_anything(fields: Fields) -> IncomingRow:
    """A row of either task of align-anything, of its scripts or of its published preferences; `question` may
    stand for `prompt`."""
    fields = _published(fields)
    if "better_image" in fields or "worse_image" in fields:
        images, caption = _image_pair(fields, "better_image", "worse_image"), fields.get("prompt")
        caption = fields.get("question") if caption is None else caption
        return IncomingRow(caption=_text(caption, "the prompt"), images=images)
    captions = _caption_pair(fields, "better_response", "worse_response")
    return IncomingRow(image=_picture(fields.get("image")), captions=captions)


def _published(fields: Fields) -> Fields:
    """A published preference, which says the number of the better side, under the scripts' names."""
    better = next((fields[name] for name in _OVERALL if fields.get(name) is not None), None)
    if better is None:
        return fields
    if better not in (1, 2, "1", "2"):
        raise UnusableError(f"neither side is preferred: overall is {str(better)[:20]!r}, not 1 or 2")
    what, worse = "image" if "image_1" in fields else "response", 3 - int(better)
    sides = {f"better_{what}": f"{what}_{3 - worse}", f"worse_{what}": f"{what}_{worse}"}
    return {**fields, **{name: fields.get(published) for name, published in sides.items()}}


READERS: dict[str, Callable[[Fields], IncomingRow]] = {
    "official": official,
    "trl": trl,
    "align-anything": align_anything,
    "parquet": table,
    "native": native,
}
_FORMAT_OF = {
    "image_codes": "native",
    "record": "parquet",
    "img_path": "official",
    "better_image": "align-anything",
    "better_response": "align-anything",
    "response_1": "align-anything",
    "image_1": "align-anything",
    "chosen": "trl",
    "caption_win": "parquet",
    "image_win": "parquet",
}
"""Field -> the format that has it; the first that is there decides."""


def detect_format(fields: Fields) -> str:
    """The format of a row, from its fields; empty where none has them."""
    return next((form for name, form in _FORMAT_OF.items() if name in fields), "")


def _both_pairs(fields: Fields) -> IncomingRow:
    number, caption = fields.get("id"), fields.get("caption")
    number = str(number) if isinstance(number, int) and not isinstance(number, bool) else number
    image = fields.get("image") or fields.get("img_path")

    def pair(read: Callable[..., Result], win: str, lose: str, score: str) -> Result | str:
        if fields.get(win) is None and fields.get(lose) is None:
            return ABSENT
        return attempt(partial(read, fields, win, lose, score))

    return IncomingRow(
        id=_text(number, "the id") if isinstance(number, str) and number.strip() else "",
        caption=_text(caption, "the caption") if isinstance(caption, str) and caption.strip() else "",
        image=_picture(image) if image else None,
        captions=pair(_caption_pair, "caption_win", "caption_lose", "bert_score"),
        images=pair(_image_pair, "image_win", "image_lose", "vqa_score"),
    )


def _caption_pair(fields: Fields, win: str, lose: str, score: str = "") -> IncomingPair[str]:
    texts = [_text(_last_message(fields.get(name)), "a caption") for name in (win, lose)]
    if texts[0] == texts[1]:
        raise UnusableError("winner and loser are the same caption")
    return IncomingPair(win=texts[0], lose=texts[1], scores=_scores(fields, score))


def _image_pair(fields: Fields, win: str, lose: str, score: str = "") -> IncomingPair[Picture]:
    images = [_picture(fields.get(name)) for name in (win, lose)]
    return IncomingPair(win=images[0], lose=images[1], scores=_scores(fields, score))


def _picture(value: object) -> Picture:
    """An image of a row: a name, a file's bytes, or Hugging Face's `{bytes, path}`."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | bytes) and value.strip():
        return value
    raise UnusableError("an image is missing")


def _scores(fields: Fields, name: str) -> tuple[float, float]:
    """Those of the row; else 1 for the winner and 0 for the loser."""
    given = [fields.get(f"{name}_{side}") for side in ("win", "lose")]
    if not name or given == [None, None]:
        return 1.0, 0.0
    if not all(isinstance(one, int | float) and abs(one) < sys.float_info.max for one in given):
        raise UnusableError(f"a score is not a number: {given!r}")
    win, lose = (float(one) for one in given if one is not None)
    if win < lose:
        raise UnusableError(f"the winner scores lower than the loser: {win} and {lose}")
    return win, lose


def _last_message(value: object) -> object:
    """The text of the last message, where a value is messages."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        value = value[-1]
    if isinstance(value, Mapping):
        value = value.get("content")
    if isinstance(value, list):
        # Tables give a part all fields of its neighbours; those that it lacks are null.
        parts = [one.get("text") for one in value if isinstance(one, Mapping) and one.get("type") == "text"]
        texts = [one for one in parts if one is not None]
        value = " ".join(texts) if all(isinstance(one, str) for one in texts) and texts else None
    return value


def _text(value: object, what: str) -> str:
    try:
        return as_text(value, what)
    except FieldError as error:
        raise UnusableError(str(error)) from error
