"""The same few held-out prompts as every round paints them, with the same seeds.

The pictures are those that the evaluation paints and judges anyway: an item's id and `eval.seed` decide all
that is random in them, so what differs between rounds is their weights' doing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.errors import DataError
from engine.files.atomic import write_file
from engine.records import Item, Record, SampledImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curate.sources import Source

    Decode = Callable[[Sequence[Sequence[int]]], NDArray[np.uint8]]

INDEX = "gallery.json"
PROMPTS = 6
LARGEST = 256
"""Pixels on a side to which pictures are reduced."""


class GalleryImage(Record):
    """One prompt and what was painted for it."""

    id: str
    prompt: str
    seed: int
    questions: tuple[str, ...]
    right: tuple[bool, ...]
    """Whether the judge found each question answered as it should be."""


class Gallery(Record):
    """The pictures of one round, in the order of their files."""

    fingerprint: str
    """Of the weights that painted."""
    images: tuple[GalleryImage, ...]


def painted_file(folder: Path, place: int) -> Path:
    """The picture that was painted for prompt number `place`."""
    return folder / f"{place:02d}.png"


def real_file(folder: Path, place: int) -> Path:
    """The image that belongs to the prompt in the data set."""
    return folder / f"{place:02d}-real.png"


def gallery_items(items: Sequence[Item], count: int = PROMPTS) -> list[Item]:
    """The first items of every category in turn, as many as `count`; only items with questions."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        if item.questions:
            groups.setdefault(item.category, []).append(item)
    longest = max(map(len, groups.values()), default=0)
    chosen = [group[place] for place in range(longest) for group in groups.values() if place < len(group)]
    return chosen[:count]


class GalleryKeeper:
    """Collects the pictures of some items while they are evaluated."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._wanted = [item.id for item in gallery_items(items)]
        self._found: dict[str, tuple[Item, SampledImage, tuple[bool, ...]]] = {}

    def keep(self, item: Item, image: SampledImage, right: Sequence[bool]) -> None:
        """Takes an item's first picture, if it is among those wanted."""
        if item.id in self._wanted:
            self._found[item.id] = (item, image, tuple(right))

    def write(self, folder: Path, fingerprint: str, decode: Decode, source: Source) -> None:
        """Writes pictures as PNG, and the index last."""
        found = [self._found[id_] for id_ in self._wanted if id_ in self._found]
        pixels = [*decode([image.codes for _, image, _ in found])] if found else []
        for place, ((item, _, _), painted) in enumerate(zip(found, pixels, strict=True)):
            write_file(painted_file(folder, place), _png(painted))
            write_file(real_file(folder, place), _png(source.image(item)))
        images = tuple(
            GalleryImage(
                id=item.id,
                prompt=item.caption,
                seed=image.seed,
                questions=tuple(question.question for question in item.questions),
                right=right,
            )
            for item, image, right in found
        )
        gallery = Gallery(fingerprint=fingerprint, images=images)
        write_file(folder / INDEX, msgspec.json.format(msgspec.json.encode(gallery)))


def read_gallery(folder: Path) -> Gallery | None:
    """The gallery in a folder; None where there is none.

    Raises:
        DataError: its index cannot be read.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Gallery)
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: {error}; remove the round's eval.json and run `hermes eval`") from error


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [H, W, 3] as PNG, at most LARGEST pixels on a side."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()
