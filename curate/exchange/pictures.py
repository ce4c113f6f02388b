"""The images of a preference as PNG files, drawn from their codes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b
from io import BytesIO

from PIL import Image

from curate.sheet import Decode
from engine.records import Preference

REAL, WIN, LOSE = "real", "win", "lose"
_A_FOLDER = 1000
"""Items whose images share a folder."""
_OURS = re.compile(r"images/\d{4,}/\d{7,}-[0-9a-f]{12}-(real|win|lose)\.png")


def picture_name(place: int, item: str, side: str) -> str:
    """A file for an image of the item at `place`: named by the place and a digest of the id."""
    digest = blake2b(item.encode(), digest_size=6).hexdigest()
    return f"images/{place // _A_FOLDER:04d}/{place:07d}-{digest}-{side}.png"


def is_picture_name(name: str) -> bool:
    """Whether `picture_name` made a name."""
    return _OURS.fullmatch(name) is not None


def codes_of(preference: Preference) -> dict[str, tuple[int, ...]]:
    """Side -> codes of the images that a preference has."""
    found = {REAL: preference.image_codes} if preference.image_codes else {}
    if pair := preference.images:
        found |= {WIN: pair.win.codes, LOSE: pair.lose.codes}
    return found


def drawn(preference: Preference, sides: Iterable[str], decode: Decode) -> dict[str, bytes]:
    """Side -> PNG file of the sides asked for."""
    codes = codes_of(preference)
    wanted = list(dict.fromkeys(sides))
    if not wanted:
        return {}
    pixels = decode([codes[side] for side in wanted])
    return {side: _png(Image.fromarray(one)) for side, one in zip(wanted, pixels, strict=True)}


def _png(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
