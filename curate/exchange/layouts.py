"""Preferences as rows of other trainers, one function a layout. Images are names; others draw them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from curate.exchange.pictures import LOSE, REAL, WIN
from engine.records import Preference

CAPTION_PAIRS, IMAGE_PAIRS = "caption pairs", "image pairs"
LLAMA_FACTORY_NAME = "hermes_captions"
PLACEHOLDER = "<image>"
LLAMA_FACTORY_TOKENS = (PLACEHOLDER, "<video>", "<audio>")
SWIFT_TOKENS = (*LLAMA_FACTORY_TOKENS, "<bbox>", "<ref-object>", "<cot-process>", "<start-image>")
"""What the tools replace by other data, or count, wherever it stands in a text."""
NO_COMPLETION = "the layout has no images as answers"
BOTH_NEEDED = "the layout needs pairs of both sides"

MOST_DIGITS = 19
"""Numbers of so many digits do not fit JSON's 64 bits."""

Fields = dict[str, Any]
NameImage = Callable[[str], str]
"""REAL, WIN or LOSE -> the file of that image."""


class LayoutRow(NamedTuple):
    """A row of a file, the images that it names, and the pairs that it holds."""

    file: str
    fields: Fields
    images: tuple[str, ...]
    pairs: tuple[str, ...]


class LeftOut(NamedTuple):
    """A pair that a layout cannot hold, and why."""

    pairs: str
    reason: str


Layout = Callable[[Preference, NameImage, str], Iterator[LayoutRow | LeftOut]]
"""The rows of a preference; the text is the question that captions answer."""


def official_columns(preference: Preference, image: Callable[[str], Any]) -> Fields:
    """The pairs of a preference under the names of the official pair file; None for what it lacks."""
    captions, images = preference.captions, preference.images
    return {
        "caption": preference.caption,
        "caption_win": captions.win.text if captions else None,
        "caption_lose": captions.lose.text if captions else None,
        "bert_score_win": captions.win.score if captions else None,
        "bert_score_lose": captions.lose.score if captions else None,
        "image_win": image(WIN),
        "image_lose": image(LOSE),
        "vqa_score_win": images.win.score if images else None,
        "vqa_score_lose": images.lose.score if images else None,
    }


def official(preference: Preference, name: NameImage, question: str) -> Iterator[LayoutRow | LeftOut]:
    """The released `pair_dpo_data.json`. `prompt` is empty: a preference does not keep it."""
    if preference.captions and preference.images:
        number = {"id": _number(preference.id), "img_path": name(REAL), "prompt": ""}
        row = number | official_columns(preference, name)
        yield LayoutRow("pair_dpo_data.json", row, (REAL, WIN, LOSE), (CAPTION_PAIRS, IMAGE_PAIRS))
    elif preference.captions or preference.images:
        yield LeftOut(CAPTION_PAIRS if preference.captions else IMAGE_PAIRS, BOTH_NEEDED)


def _number(item: str) -> int | str:
    """An official id is a number; an id that is none stays as it is."""
    plain = item.isascii() and item.isdigit() and len(item) < MOST_DIGITS
    return int(item) if plain and str(int(item)) == item else item


def trl(preference: Preference, name: NameImage, question: str) -> Iterator[LayoutRow | LeftOut]:
    """TRL's preference type with images, in the layout that `datasets` opens as a folder of images.

    `file_names` becomes the column `images`.
    """
    if pair := preference.captions:
        row = {
            "file_names": [name(REAL)],
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            "chosen": [_answer(pair.win.text)],
            "rejected": [_answer(pair.lose.text)],
        }
        yield LayoutRow("metadata.jsonl", row, (REAL,), (CAPTION_PAIRS,))
    if preference.images:
        yield LeftOut(IMAGE_PAIRS, NO_COMPLETION)


def _answer(text: str) -> Fields:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def ms_swift(preference: Preference, name: NameImage, question: str) -> Iterator[LayoutRow | LeftOut]:
    """ms-swift's messages. An image pair asks for the caption, and rejects an image, not an answer."""

    def messages(answer: str, image: str) -> Fields:
        asked = {"role": "user", "content": PLACEHOLDER + question}
        return {"messages": [asked, {"role": "assistant", "content": answer}], "images": [image]}

    if pair := preference.captions:
        row = messages(pair.win.text, name(REAL)) | {"rejected_response": pair.lose.text}
        held = LayoutRow("captions.jsonl", row, (REAL,), (CAPTION_PAIRS,))
        yield _unless_any(SWIFT_TOKENS, held, question, pair.win.text, pair.lose.text)
    if preference.images:
        row = messages(preference.caption, name(WIN)) | {"rejected_images": [name(LOSE)]}
        held = LayoutRow("images.jsonl", row, (WIN, LOSE), (IMAGE_PAIRS,))
        yield _unless_any(SWIFT_TOKENS, held, question, preference.caption)


def llama_factory(preference: Preference, name: NameImage, question: str) -> Iterator[LayoutRow | LeftOut]:
    """LLaMA-Factory's sharegpt format with ranking."""
    if pair := preference.captions:
        row = {
            "conversations": [{"from": "human", "value": PLACEHOLDER + question}],
            "chosen": {"from": "gpt", "value": pair.win.text},
            "rejected": {"from": "gpt", "value": pair.lose.text},
            "images": [name(REAL)],
        }
        held = LayoutRow("pairs.json", row, (REAL,), (CAPTION_PAIRS,))
        yield _unless_any(LLAMA_FACTORY_TOKENS, held, question, pair.win.text, pair.lose.text)
    if preference.images:
        yield LeftOut(IMAGE_PAIRS, NO_COMPLETION)


def llama_factory_info() -> Fields:
    """LLaMA-Factory's dataset_info.json."""
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    entry = {"file_name": "pairs.json", "formatting": "sharegpt", "ranking": True, "columns": columns}
    return {LLAMA_FACTORY_NAME: entry}


def _unless_any(tokens: Sequence[str], row: LayoutRow, *texts: str) -> LayoutRow | LeftOut:
    found = next((token for token in tokens if any(token in text for text in texts)), None)
    return LeftOut(row.pairs[0], f"a text holds {found}, which stands for other data there") if found else row


def align_anything(preference: Preference, name: NameImage, question: str) -> Iterator[LayoutRow | LeftOut]:
    """align-anything's two tasks, a file each."""
    if pair := preference.captions:
        row = {
            "question": question,
            "image": name(REAL),
            "better_response": pair.win.text,
            "worse_response": pair.lose.text,
        }
        yield LayoutRow("image_to_text.json", row, (REAL,), (CAPTION_PAIRS,))
    if preference.images:
        row = {"prompt": preference.caption, "better_image": name(WIN), "worse_image": name(LOSE)}
        yield LayoutRow("text_to_image.json", row, (WIN, LOSE), (IMAGE_PAIRS,))


LAYOUTS: dict[str, Layout] = {
    "official": official,
    "trl": trl,
    "ms-swift": ms_swift,
    "llama-factory": llama_factory,
    "align-anything": align_anything,
}
