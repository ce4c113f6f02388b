"""Image files of every mode: the right pixels, or one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_sets import bomb
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from curate.sources.images import MAX_BYTES, decode_rgb, read_rgb, square
from engine.errors import DataError

RED = (200, 30, 40)


def picture() -> Image.Image:
    """Red above, black below: a picture that knows which way is up."""
    image = Image.new("RGB", (40, 40), RED)
    image.paste((0, 0, 0), (0, 20, 40, 40))
    return image


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def corners(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    image = read_rgb(path)
    assert image.mode == "RGB"
    return image.getpixel((1, 1)), image.getpixel((1, image.height - 2))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_colours_survive_every_mode(tmp_path: Path, mode: str) -> None:
    kind = {"CMYK": "tif", "YCbCr": "tif"}.get(mode, "png")
    image = picture().convert(mode, palette=Image.Palette.ADAPTIVE)
    above, below = corners(save(image, tmp_path / f"image.{kind}"))
    assert np.abs(np.subtract(above, RED)).max() <= 3
    assert np.abs(np.subtract(below, 0)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_greys_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("L", (40, 40), 255)
    image.paste(0, (0, 20, 40, 40))
    assert corners(save(image.convert(mode), tmp_path / "image.png")) == ((255,) * 3, (0,) * 3)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, kind: str) -> None:
    values = np.full((40, 40), 128 * 257, np.uint16)
    values[20:] = 64 * 257
    above, below = corners(save(Image.fromarray(values), tmp_path / f"image.{kind}"))
    assert (above, below) == ((128,) * 3, (64,) * 3)


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 180), (6, 90), (8, 270)])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture().rotate(turn)
    above, below = corners(save(stored, tmp_path / "image.jpg", exif=exif, quality=95))
    assert above[0] > 150
    assert below[0] < 60


@pytest.mark.parametrize("side", [9_000, 30_000])
def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side))
    with pytest.raises(DataError, match="more than 64,000,000"):
        read_rgb(path)
    with pytest.raises(DataError, match=r"shard\.tar#5: .*more than 64,000,000"):
        decode_rgb(bomb(side), "shard.tar#5")


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp", "tif"])
def test_a_truncated_image_is_one_clear_line(tmp_path: Path, kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path = save(noise, tmp_path / f"image.{kind}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cannot be read as an image") as caught:
        read_rgb(path)
    assert len(str(caught.value).splitlines()) == 1


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "image"
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        read_rgb(path)
    with pytest.raises(DataError, match="cannot be read"):
        decode_rgb(data, "somewhere")


def test_an_image_in_memory_is_read_like_one_on_disk(tmp_path: Path) -> None:
    path = save(picture().convert("CMYK"), tmp_path / "image.tif")
    assert decode_rgb(path.read_bytes(), "somewhere").tobytes() == read_rgb(path).tobytes()


def test_a_large_payload_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(DataError, match="somewhere: more than 64 MiB"):
        decode_rgb(bytes(MAX_BYTES + 1), "somewhere")


def test_heic_is_named_with_what_to_do(tmp_path: Path) -> None:
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"HEIC, .*; convert it to JPEG"):
        read_rgb(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="HEIC"):
        decode_rgb(content, "x.tar#7")


def test_formats_that_start_programs_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of no known format"):
        read_rgb(save(picture(), tmp_path / "image.eps"))


@pytest.mark.parametrize("size", [(40, 100), (100, 40), (7, 300), (48, 48), (1, 1)])
def test_the_crop_is_central_and_square(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, RED)
    assert square(image, 48).shape == (48, 48, 3)
    wide = Image.new("RGB", (150, 50), (0, 0, 0))
    wide.paste(RED, (50, 0, 100, 50))
    assert (np.abs(square(wide, 48)[:, 4:-4].astype(int) - RED) <= 1).all()


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_orientation_that_cannot_be_read_turns_nothing(tmp_path: Path, kind: str) -> None:
    above, below = corners(save(picture(), tmp_path / f"image.{kind}", exif=b"Exif\0\0no directory"))
    assert above[0] > 150
    assert below[0] < 60


def test_texts_and_profiles_that_unpack_to_megabytes_do_not_hide_the_picture(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("workflow", "x" * (4 << 20), zip=True)
    path = save(picture(), tmp_path / "image.png", pnginfo=text, icc_profile=bytes(4 << 20))
    assert corners(path) == (RED, (0, 0, 0))
    many = PngInfo()
    for number in range(9):
        many.add_text(str(number), "x" * (16 << 20), zip=True)
    with pytest.raises(DataError, match="Too much memory used in text chunks"):
        read_rgb(save(picture(), tmp_path / "many.png", pnginfo=many))


@pytest.mark.parametrize("size", [(1, 3_000_000), (3_000_000, 1), (2, 900_000)])
def test_the_crop_of_a_thread_of_pixels_takes_no_more_memory_than_another(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (0, 0, 0))
    middle = [max(0, side // 2 - 3) for side in size]
    image.paste(RED, (*middle, *(min(side, low + 6) for side, low in zip(size, middle, strict=True))))
    assert (square(image, 512) == RED).all()


def test_a_file_on_disk_is_no_larger_than_one_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "image.webp"
    with path.open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(DataError, match="more than 64 MiB"):
        read_rgb(path)
