"""Preferences as rows of other trainers, one function a layout. Images are names; others draw them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from curate.exchange.pictures import LOSE, REAL, WIN
from curate.exchange.wording import PLACEHOLDER
from engine.records import CaptionPair, Preference

Row = dict[str, Any]
Name = Callable[[str], str]
"""Side of a preference -> its image file."""


class Line(NamedTuple):
    """A row of a file, and the images that it names."""

    file: str
    row: Row
    sides: tuple[str, ...]
    pairs: str
    """What it holds: captions, images, or both."""


class LeftOut(NamedTuple):
    """A pair that a layout cannot hold, and why."""

    pairs: str
    reason: str


Layout = Callable[[Preference, Name, str], Iterator[Line | LeftOut]]
"""The lines of a preference; the text is the question that captions answer."""

NO_COMPLETION = "the layout has no images as answers"
BOTH_NEEDED = "the layout needs pairs of both sides"
HAS_PLACEHOLDER = f"a caption holds {PLACEHOLDER}, which stands for an image there"


def official(preference: Preference, name: Name, question: str) -> Iterator[Line | LeftOut]:
    """The released `pair_dpo_data.json`. `prompt` is empty: a preference does not keep it."""
    captions, images = preference.captions, preference.images
    if captions is None or images is None:
        yield from (LeftOut("captions", BOTH_NEEDED),) if captions else ()
        yield from (LeftOut("images", BOTH_NEEDED),) if images else ()
        return
    row = {
        "id": _number(preference.id),
        "img_path": name(REAL),
        "prompt": "",
        "caption": preference.caption,
        "caption_win": captions.win.text,
        "caption_lose": captions.lose.text,
        "bert_score_win": captions.win.score,
        "bert_score_lose": captions.lose.score,
        "image_win": name(WIN),
        "image_lose": name(LOSE),
        "vqa_score_win": images.win.score,
        "vqa_score_lose": images.lose.score,
    }
    yield Line("pair_dpo_data.json", row, (REAL, WIN, LOSE), "both")


def _number(item: str) -> int | str:
    """An official id is a number; an id that is none stays as it is."""
    return int(item) if item.isascii() and item.isdigit() and str(int(item)) == item else item


def trl(preference: Preference, name: Name, question: str) -> Iterator[Line | LeftOut]:
    """TRL's preference type with images, in the layout that `datasets` opens as a folder of images.

    `file_names` becomes the column `images`.
    """
    if pair := preference.captions:
        asked = [{"type": "image"}, {"type": "text", "text": question}]
        row = {
            "file_names": [name(REAL)],
            "prompt": [{"role": "user", "content": asked}],
            "chosen": [_told(pair.win.text)],
            "rejected": [_told(pair.lose.text)],
        }
        yield Line("metadata.jsonl", row, (REAL,), "captions")
    if preference.images:
        yield LeftOut("images", NO_COMPLETION)


def _told(text: str) -> Row:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def ms_swift(preference: Preference, name: Name, question: str) -> Iterator[Line | LeftOut]:
    """ms-swift's messages. An image pair asks for the caption, and rejects an image, not an answer."""
    if pair := preference.captions:
        if _has_placeholder(pair):
            yield LeftOut("captions", HAS_PLACEHOLDER)
        else:
            row = _messages(question, pair.win.text, name(REAL)) | {"rejected_response": pair.lose.text}
            yield Line("captions.jsonl", row, (REAL,), "captions")
    if preference.images:
        if PLACEHOLDER in preference.caption:
            yield LeftOut("images", HAS_PLACEHOLDER)
        else:
            row = _messages(question, preference.caption, name(WIN)) | {"rejected_images": [name(LOSE)]}
            yield Line("images.jsonl", row, (WIN, LOSE), "images")


def _messages(question: str, answer: str, image: str) -> Row:
    messages = [
        {"role": "user", "content": PLACEHOLDER + question},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, "images": [image]}


def llama_factory(preference: Preference, name: Name, question: str) -> Iterator[Line | LeftOut]:
    """LLaMA-Factory's sharegpt format with ranking."""
    if pair := preference.captions:
        if _has_placeholder(pair):
            yield LeftOut("captions", HAS_PLACEHOLDER)
        else:
            row = {
                "conversations": [{"from": "human", "value": PLACEHOLDER + question}],
                "chosen": {"from": "gpt", "value": pair.win.text},
                "rejected": {"from": "gpt", "value": pair.lose.text},
                "images": [name(REAL)],
            }
            yield Line("pairs.json", row, (REAL,), "captions")
    if preference.images:
        yield LeftOut("images", NO_COMPLETION)


def _has_placeholder(pair: CaptionPair) -> bool:
    return PLACEHOLDER in pair.win.text or PLACEHOLDER in pair.lose.text


def align_anything(preference: Preference, name: Name, question: str) -> Iterator[Line | LeftOut]:
    """align-anything's two tasks, a file each."""
    if pair := preference.captions:
        row = {
            "question": question,
            "image": name(REAL),
            "better_response": pair.win.text,
            "worse_response": pair.lose.text,
        }
        yield Line("image_to_text.json", row, (REAL,), "captions")
    if preference.images:
        row = {"prompt": preference.caption, "better_image": name(WIN), "worse_image": name(LOSE)}
        yield Line("text_to_image.json", row, (WIN, LOSE), "images")


LAYOUTS: dict[str, Layout] = {
    "official": official,
    "trl": trl,
    "ms-swift": ms_swift,
    "llama-factory": llama_factory,
    "align-anything": align_anything,
}
