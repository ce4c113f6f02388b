"""Image files as RGB pixels, whatever their mode, and the official crop to a model's size."""

from __future__ import annotations

import warnings
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from engine.errors import DataError

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""
MAX_BYTES = 64 << 20
"""Larger embedded files are refused before they are looked at."""
MOST_LONGER = 64
"""Times that a side may be longer than the other before its ends are cut off."""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, where Pillow was built with it; its other formats are rare, and some start programs."""
_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftyphevc")
"""Bytes 4 to 12 of what phones save."""
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of more than eight bits a pixel, which its own conversion would clip to white."""


class _TooLargeError(ValueError):
    """More than MAX_PIXELS pixels."""


def read_rgb(path: Path) -> Image.Image:
    """An image file in mode RGB, upright.

    Takes any mode that has colours or greys: 1-bit, grey, palette, alpha (dropped, as in the official code),
    CMYK, 16-bit grey (scaled to 8 bits). EXIF orientation is applied where it can be read. Of an animation,
    the first frame.

    Raises:
        DataError: no such file, not an image, damaged, or of more than MAX_PIXELS pixels or MAX_BYTES bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    return decode_rgb(data, str(path))


def decode_rgb(data: bytes, where: str) -> Image.Image:
    """The same of an image file in memory; `where` names it in errors.

    Raises:
        DataError: as `read_rgb`.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"{where}: more than {MAX_BYTES >> 20} MiB; shrink it")
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are refused below, and of EXIF blocks that it cannot read.
            warnings.simplefilter("ignore")
            return _decoded(BytesIO(data))
    except (_TooLargeError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: more than {MAX_PIXELS:,} pixels; shrink it") from error
    except UnidentifiedImageError as error:
        hint = "HEIC, which is not read; convert it to JPEG (pip install pillow-heif)"
        kind = hint if data[4:12] in _HEIC else "of no known format"
        raise DataError(f"{where}: cannot be read as an image: {kind}") from error
    except Exception as error:  # of a damaged file, Pillow's parts raise any type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where}: cannot be read as an image: {reason}") from error


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    # Text and profiles are as large as a file may be; Pillow's 1 MiB would refuse the picture beside them.
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_BYTES
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _decoded(file: IO[bytes]) -> Image.Image:
    with Image.open(file, formats=_formats()) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _TooLargeError
        image.load()
        upright = _upright(image)
        return _eight_bits(upright) if upright.mode in _WIDE else upright.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that cannot be read turns nothing
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    scaled = values if values.max(initial=0) <= 255 and image.mode == "I" else values // 257
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8)).convert("RGB")


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """uint8 [size, size, 3]: shorter side to `size`, then the centre (official `image_transform`).

    Of sides beyond MOST_LONGER : 1 the middle is taken first, as the rest could fill any memory.
    """
    image = _shortened(image)
    short = min(image.size)
    scaled = [max(size, int(size * side / short)) for side in image.size]
    resized = image.resize((scaled[0], scaled[1]), Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def _shortened(image: Image.Image) -> Image.Image:
    most = MOST_LONGER * min(image.size)
    if max(image.size) <= most:
        return image
    width, height = (min(side, most) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
