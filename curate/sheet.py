"""The candidate sheet: one PNG that shows what a curation saw and chose."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from engine.records import Candidates, ImageCandidate, Preference

Decode = Callable[[Sequence[Sequence[int]]], NDArray[np.uint8]]

TILE, GAP, FRAME, TEXT, LABEL = 96, 12, 4, 330, 20
_INK, _FAINT, _PAPER = (28, 30, 34), (120, 124, 130), (255, 255, 255)
_WIN, _LOSE, _NONE = (24, 150, 84), (206, 52, 52), (222, 224, 228)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shorten(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder="...")


def draw_sheet(
    records: Sequence[Candidates],
    preferences: Sequence[Preference],
    decode: Decode,
    title: str,
    most: int = 12,
) -> Image.Image:
    """Rows of prompt, real image and candidates; the winner framed green, the loser red.

    Rows with an image pair come first. A loser that was sampled in an earlier round has no tile in its
    row; the text says so.
    """
    chosen = {preference.id: preference for preference in preferences}
    order = sorted(records, key=lambda record: chosen[record.id].images is None)[:most]
    columns = 1 + max((len(record.images) for record in order), default=0)
    row_height = TILE + LABEL + 2 * GAP
    width = TEXT + columns * (TILE + GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, 56 + row_height * len(order) + GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 10), title, _INK, _font(20))
    pen.text(
        (GAP, 35),
        "real image, then candidates with self-VQA accuracy; green: winner, red: loser",
        _FAINT,
        _font(13),
    )
    for number, record in enumerate(order):
        _draw_row(sheet, pen, 56 + number * row_height, record, chosen[record.id], decode)
    return sheet


def _draw_row(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    top: int,
    record: Candidates,
    preference: Preference,
    decode: Decode,
) -> None:
    pen.line((GAP, top, sheet.width - GAP, top), _NONE)
    _draw_text(pen, top + GAP // 2, record, preference)
    tiles = decode([record.image_codes, *(image.codes for image in record.images)])
    for place, pixels in enumerate(tiles):
        left = TEXT + place * (TILE + GAP)
        tile = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.NEAREST)
        sheet.paste(tile, (left, top + GAP))
        if place == 0:
            pen.text((left, top + GAP + TILE + 3), "real", _FAINT, _font(13))
            continue
        image = record.images[place - 1]
        color, name = _verdict(image, preference)
        box = (left - 2, top + GAP - 2, left + TILE + 1, top + GAP + TILE + 1)
        pen.rectangle(box, outline=color, width=FRAME if name else 1)
        pen.text(
            (left, top + GAP + TILE + 3), f"{image.score:.2f} {name}", color if name else _FAINT, _font(13)
        )


def _verdict(image: ImageCandidate, preference: Preference) -> tuple[tuple[int, int, int], str]:
    pair = preference.images
    if pair is not None and image == pair.win:
        return _WIN, "winner"
    if pair is not None and image == pair.lose:
        return _LOSE, "loser"
    return _NONE, ""


def _draw_text(pen: ImageDraw.ImageDraw, top: int, record: Candidates, preference: Preference) -> None:
    lines = textwrap.wrap(record.caption, 40)[:3]
    pen.multiline_text((GAP, top), "\n".join(lines), _INK, _font(15))
    top += 20 * len(lines) + 4
    captions = preference.captions
    if captions is None:
        pen.text((GAP, top), _shorten(f"captions: {preference.caption_reason}", 48), _FAINT, _font(12))
        top += 17
    else:
        for candidate, color in ((captions.win, _WIN), (captions.lose, _LOSE)):
            pen.text((GAP, top), f"{candidate.score:.2f}  {_shorten(candidate.text, 44)}", color, _font(12))
            top += 17
    if preference.images is None:
        pen.text((GAP, top), _shorten(f"images: {preference.image_reason}", 48), _FAINT, _font(12))
    elif preference.images.lose_round != preference.images.win_round:
        pen.text((GAP, top), f"loser from round {preference.images.lose_round}", _FAINT, _font(12))


def save_images(
    records: Sequence[Candidates], preferences: Sequence[Preference], decode: Decode, folder: Path
) -> None:
    """PNGs for people: `<id>/real.png`, `win.png`, `lose.png`. The codes, not these, are what trains."""
    for record, preference in zip(records, preferences, strict=True):
        named = {"real": record.image_codes}
        if preference.images is not None:
            named |= {"win": preference.images.win.codes, "lose": preference.images.lose.codes}
        target = folder / _folder_name(record.id)
        target.mkdir(parents=True, exist_ok=True)
        for name, pixels in zip(named, decode(list(named.values())), strict=True):
            Image.fromarray(pixels).save(target / f"{name}.png")


def _folder_name(id_: str) -> str:
    """An id as the name of a folder; ids come from data sets and may look like paths."""
    plain = re.sub(r"[^\w.-]", "_", id_)[:80]
    if plain == id_ and not id_.startswith("."):
        return id_
    return f"{plain.lstrip('.')}-{blake2b(id_.encode(), digest_size=4).hexdigest()}"
