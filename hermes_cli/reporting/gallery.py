"""The same few held-out prompts as every round generates them, with the same seeds.

The evaluation generates and judges these pictures anyway. An item's id and `eval.seed` decide all that is
random in them, so only the weights differ between rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.errors import UNREADABLE, DataError
from engine.files.atomic import write_file
from engine.files.seals import require_sealed, seal
from engine.records import Item, Record, SampledImage
from hermes_cli.view import encode_pretty

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curate.sources import Source

    Decode = Callable[[Sequence[Sequence[int]]], NDArray[np.uint8]]

INDEX = "gallery.json"
PROMPTS = 6


class GalleryImage(Record):
    """One prompt and what was generated for it."""

    id: str
    prompt: str
    seed: int
    questions: tuple[str, ...]
    right: tuple[bool, ...]
    """Whether the judge found each question answered as it should be."""


class Gallery(Record):
    """The pictures of one round, in the order of their files."""

    fingerprint: str
    """Of the weights that generated them."""
    images: tuple[GalleryImage, ...]


def generated_file(folder: Path, place: int) -> Path:
    """The picture that was generated for prompt number `place`."""
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
        from hermes_cli.pages.pictures import encode_png

        found = [self._found[id_] for id_ in self._wanted if id_ in self._found]
        pixels = [*decode([image.codes for _, image, _ in found])] if found else []
        for place, ((item, _, _), generated) in enumerate(zip(found, pixels, strict=True)):
            write_file(generated_file(folder, place), encode_png(generated))
            write_file(real_file(folder, place), encode_png(source.image(item)))
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
        write_file(folder / INDEX, encode_pretty(gallery))
        seal(folder, [INDEX])


def read_gallery(folder: Path) -> Gallery | None:
    """The gallery in a folder; None where there is none.

    Raises:
        DataError: its index cannot be read, or is not as it was sealed.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    require_sealed(path, "remove the round's eval.json and run `hermes eval`")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Gallery)
    except UNREADABLE as error:
        raise DataError(f"{path}: {error}; remove the round's eval.json and run `hermes eval`") from error
