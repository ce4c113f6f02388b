"""Pictures as PNG, no larger than a page needs."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.records import Record

LARGEST, SMALL = 256, 128
"""Pixels on a side: what a picture is reduced to, and below what its pixels are shown as squares."""


class EmbeddedPicture(Record):
    """A picture inside a page."""

    uri: str
    small: bool


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture uint8 [H, W, 3] as PNG, at most LARGEST pixels on a side."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def embed(pixels: NDArray[np.uint8]) -> EmbeddedPicture:
    """A picture uint8 [H, W, 3] for a page."""
    uri = "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode()
    return EmbeddedPicture(uri=uri, small=pixels.shape[1] < SMALL)
