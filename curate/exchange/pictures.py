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


def is_picture_name(name: object) -> bool:
    """Whether `picture_name` made a name."""
    return isinstance(name, str) and _OURS.fullmatch(name) is not None


def codes_of(preference: Preference) -> dict[str, tuple[int, ...]]:
    """REAL, WIN and LOSE -> codes, of the images that a preference has."""
    codes = {REAL: preference.image_codes} if preference.image_codes else {}
    if pair := preference.images:
        codes |= {WIN: pair.win.codes, LOSE: pair.lose.codes}
    return codes


def draw(preference: Preference, sides: Iterable[str], decode: Decode) -> dict[str, bytes]:
    """REAL, WIN and LOSE -> PNG file, of the images asked for."""
    codes, wanted = codes_of(preference), list(dict.fromkeys(sides))
    pixels = decode([codes[side] for side in wanted]) if wanted else ()
    pictures = {}
    for side, one in zip(wanted, pixels, strict=True):
        stream = BytesIO()
        Image.fromarray(one).save(stream, "PNG")
        pictures[side] = stream.getvalue()
    return pictures
