"""Image files as RGB pixels, whatever their mode, and the official crop to a model's size."""

from __future__ import annotations

import warnings
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.errors import DataError

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""
MAX_BYTES = 64 << 20
"""Larger embedded files are refused before they are looked at."""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, where Pillow was built with it; its other formats are rare, and some start programs."""
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of more than eight bits a pixel, which its own conversion would clip to white."""


def read_rgb(path: Path) -> Image.Image:
    """An image file in mode RGB, upright.

    Takes any mode that has colours or greys: 1-bit, grey, palette, alpha (dropped, as in the official code),
    CMYK, 16-bit grey (scaled to 8 bits). EXIF orientation is applied. Of an animation, the first frame.

    Raises:
        DataError: no such file, not an image, damaged, or of more than MAX_PIXELS pixels.
    """
    return _read(path, str(path))


def decode_rgb(data: bytes, where: str) -> Image.Image:
    """The same of an image file in memory; `where` names it in errors.

    Raises:
        DataError: as `read_rgb`, or more than MAX_BYTES bytes.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"{where}: more than {MAX_BYTES >> 20} MiB; shrink it")
    return _read(BytesIO(data), where)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _read(file: Path | IO[bytes], where: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are refused below, and of EXIF blocks that it cannot read.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_formats()) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width} x {image.height} pixels"
                    raise DataError(f"{where}: {size} are more than {MAX_PIXELS:,}; shrink it")
                upright = ImageOps.exif_transpose(image)
                return _eight_bits(upright) if upright.mode in _WIDE else upright.convert("RGB")
    except Image.DecompressionBombError as error:
        raise DataError(f"{where}: more than {MAX_PIXELS:,} pixels; shrink it") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: cannot be read as an image: of no known format") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{where}: cannot be read as an image: {error}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    scaled = values if values.max(initial=0) <= 255 and image.mode == "I" else values // 257
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8)).convert("RGB")


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """uint8 [size, size, 3]: shorter side to `size`, then the centre (official `image_transform`)."""
    short = min(image.size)
    scaled = [max(size, int(size * side / short)) for side in image.size]
    resized = image.resize((scaled[0], scaled[1]), Image.Resampling.BICUBIC)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))
