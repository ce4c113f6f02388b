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

from engine.records import Candidates, ImagePair, Preference

Decode = Callable[[Sequence[Sequence[int]]], NDArray[np.uint8]]

TILE, GAP, FRAME, TEXT, LABEL, HEAD = 96, 12, 4, 330, 20, 56
_INK, _FAINT, _PAPER = (28, 30, 34), (120, 124, 130), (255, 255, 255)
_WIN, _LOSE, _NONE = (24, 150, 84), (206, 52, 52), (222, 224, 228)


def _write(
    pen: ImageDraw.ImageDraw, left: int, top: int, text: str, colour: tuple[int, int, int], size: int = 13
) -> None:
    pen.text((left, top), text, colour, ImageFont.load_default(size))


def _shorten(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder="...")


def draw_sheet(
    records: Sequence[Candidates],
    preferences: Sequence[Preference],
    decode: Decode,
    title: str,
    most: int = 12,
) -> Image.Image:
    """Lines of prompt, real image and candidates; the winner framed green, the loser red.

    Items with an image pair come first. A loser that was sampled in an earlier round has no tile in its
    line; the text says so.
    """
    chosen = {preference.id: preference for preference in preferences}
    order = sorted(records, key=lambda record: chosen[record.id].images is None)[:most]
    columns = 1 + max((len(record.images) for record in order), default=0)
    height = TILE + LABEL + 2 * GAP
    size = (TEXT + columns * (TILE + GAP) + 2 * GAP, HEAD + height * len(order) + GAP)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, GAP, 10, title, _INK, 20)
    legend = "real image as the model sees it, candidates with self-VQA accuracy; green: winner, red: loser"
    _write(pen, GAP, 35, legend, _FAINT)
    for place, record in enumerate(order):
        top = HEAD + place * height
        pen.line((GAP, top, sheet.width - GAP, top), _NONE)
        _draw_text(pen, top + GAP // 2, record.caption, chosen[record.id])
        _draw_tiles(sheet, pen, top + GAP, record, chosen[record.id].images, decode)
    return sheet


def _draw_tiles(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    top: int,
    record: Candidates,
    pair: ImagePair | None,
    decode: Decode,
) -> None:
    """The real image and the candidates, each with its score below."""
    shown = [None, *record.images]
    pixels = decode([record.image_codes, *(image.codes for image in record.images)])
    for place, (image, picture) in enumerate(zip(shown, pixels, strict=True)):
        left = TEXT + place * (TILE + GAP)
        tile = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.NEAREST)
        sheet.paste(tile, (left, top))
        if image is None:
            _write(pen, left, top + TILE + 3, "real", _FAINT)
            continue
        colour, name = _NONE, ""
        if pair is not None and image in (pair.win, pair.lose):
            colour, name = (_WIN, "winner") if image == pair.win else (_LOSE, "loser")
        box = (left - 2, top - 2, left + TILE + 1, top + TILE + 1)
        pen.rectangle(box, outline=colour, width=FRAME if name else 1)
        # Earlier versions painted images that no question could score.
        score = f"{image.score:.2f}" if record.questions else "no questions"
        _write(pen, left, top + TILE + 3, f"{score} {name}", colour if name else _FAINT)


def _draw_text(pen: ImageDraw.ImageDraw, top: int, prompt: str, preference: Preference) -> None:
    """The prompt, the pair of captions or why there is none, and what the tiles cannot say."""
    lines = textwrap.wrap(prompt, 40)[:3]
    pen.multiline_text((GAP, top), "\n".join(lines), _INK, ImageFont.load_default(15))
    notes = []
    if (captions := preference.captions) is None:
        notes.append((_shorten(f"captions: {preference.caption_reason}", 48), _FAINT))
    else:
        sides = ((captions.win, _WIN), (captions.lose, _LOSE))
        notes += [(f"{one.score:.2f}  {_shorten(one.text, 44)}", colour) for one, colour in sides]
    if (images := preference.images) is None:
        notes.append((_shorten(f"images: {preference.image_reason}", 48), _FAINT))
    elif images.lose_round != images.win_round:
        notes.append((f"loser from round {images.lose_round}", _FAINT))
    top += 20 * len(lines) + 4
    for place, (text, colour) in enumerate(notes):
        _write(pen, GAP, top + 17 * place, text, colour, 12)


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
