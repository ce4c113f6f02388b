"""Small files of every format that users give, damaged at random, and who reads each.

`python fuzzing.py FORMAT NUMBER SEED` reads NUMBER damaged files and prints what became of them as JSON, with
the process's peak of memory.
"""

from __future__ import annotations

import io
import json
import random
import resource
import struct
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from data_sets import QUESTION, write_tar
from PIL import Image
from safetensors.torch import save

from curate.exchange.importing import import_pairs
from curate.exchange.tokenizers import Tokenizers
from curate.questions.lookup import questions_from
from curate.sources import open_source
from curate.sources.images import decode_rgb, square
from engine.checkpoints.weights import load_model
from engine.errors import HermesError
from engine.files.layout import EMBEDDED_MODEL
from engine.files.tensors import tensor_layout
from engine.official.tensor_files import open_file
from engine.tokenizers.image import load_image_tokenizer
from engine.tokenizers.text import TextTokenizer

READ, REFUSED, QUARANTINED = "read", "refused", "quarantined"
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_TEXTS = (
    b"null", b"1e400", b"NaN", b"-1", b'"\\ud800"', b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b"\xff\xfe",
    b"\0", b'"', b"}", b"]", b"\n", b"true", b"[]", b"{}", b'""',
)  # fmt: skip

Random = random.Random
Reader = Callable[[bytes, Path], str]


def _image(name: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    mode = options.pop("mode", "RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    if name in ("PNG", "JPEG", "WEBP", "TIFF"):
        options |= {"exif": exif, "icc_profile": bytes(range(256)) * 3}
    image = Image.fromarray(values).convert(mode)
    if options.pop("frames", False):
        options |= {"save_all": True, "append_images": [image.rotate(90)]}
    image.save(stream, name, **options)
    return stream.getvalue()


def _rows(image: object) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "image": image, "caption": f"a red thing {i}", "questions": [QUESTION]}
        for i in range(3)
    ]


def _table(write: Callable[[pa.Table, Any], object], pairs: bool = False) -> bytes:
    stream = io.BytesIO()
    one, other = ({"bytes": _image("PNG", mode=mode), "path": "a.png"} for mode in ("RGB", "L"))
    write(pa.Table.from_pylist(_pair_rows(one, one, other) if pairs else _rows(one)), stream)
    return stream.getvalue()


def _arrow(table: pa.Table, stream: Any) -> None:
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)


def _tar() -> bytes:
    members = {
        f"{i}.{ending}": data
        for i in range(3)
        for ending, data in (("png", _image("PNG")), ("json", json.dumps(_rows("")[i]).encode()))
    }
    with tempfile.TemporaryDirectory() as folder:
        return write_tar(Path(folder) / "a.tar", members).read_bytes()


def _torch() -> bytes:
    stream = io.BytesIO()
    torch.save({"weight": torch.ones(3, 4), "bias": torch.zeros(5)}, stream)
    return stream.getvalue()


def _pair_rows(real: object, win: object, lose: object) -> list[dict[str, Any]]:
    scores = {"bert_score_win": 0.9, "bert_score_lose": 0.2, "vqa_score_win": 1.0, "vqa_score_lose": 0.5}
    row = {"caption": "a red circle", "caption_win": "a circle", "caption_lose": "two squares", **scores}
    return [
        {**row, "id": i, "img_path": "a.png", "image": real, "image_win": win, "image_lose": lose}
        for i in range(3)
    ]


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@cache
def _tokenizers() -> Tokenizers:
    return Tokenizers(EMBEDDED_MODEL)


def _import(path: Path) -> None:
    for name, data in (("a.png", _image("PNG")), ("b.png", _image("PNG", mode="L"))):
        (path.parent / name).write_bytes(data)
    import_pairs(path, path.parent / "curate", _tokenizers(), 1)


def _pairs() -> bytes:
    return json.dumps(_pair_rows("a.png", "a.png", "b.png"), indent=1).encode()


def _tifa() -> bytes:
    rows = [{"id": str(i), "caption": "a red thing", **QUESTION, "element": "x"} for i in range(3)]
    return json.dumps(rows, indent=1).encode()


def _read_image(data: bytes, folder: Path) -> str:
    return _outcome(lambda: square(decode_rgb(data, "here"), 48))


def _read_set(name: str, beside: dict[str, bytes], data: bytes, folder: Path) -> str:
    """Rows and images of a data set of one damaged file."""
    (folder / name).write_bytes(data)
    for other, content in beside.items():
        (folder / other).write_bytes(content)
    path = folder if beside else folder / name
    try:
        source = open_source(str(path), "", 0, 48)
        rows = list(source.rows())
    except HermesError:
        return REFUSED
    items = [row.item for row in rows if row.item is not None]
    _, _, bad = source.images(items)
    json.dumps([one.reason for one in bad] + [row.reason for row in rows], ensure_ascii=False).encode()
    return QUARANTINED if bad or len(items) < len(rows) else READ


def _read_file(name: str, read: Callable[[Path], object], data: bytes, folder: Path) -> str:
    (folder / name).write_bytes(data)
    return _outcome(lambda: read(folder / name))


def _read_beside(name: str, whole: Path, read: Callable[[Path], object], data: bytes, folder: Path) -> str:
    """One damaged file of a folder whose others are whole."""
    for path in whole.iterdir():
        if path.is_file() and path.name != name and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    (folder / name).write_bytes(data)
    return _outcome(lambda: read(folder))


def _outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except HermesError:
        return REFUSED
    return READ


def _said(path: Path) -> None:
    tokenizer = TextTokenizer.load(path)
    tokenizer.decode(tokenizer.encode("a red circle, \u65e5 and a square"))


IMAGE_TOKENIZER = EMBEDDED_MODEL / "image_tokenizer"
_PNG = {"a.png": _image("PNG")}
FORMATS: dict[str, tuple[Callable[[], bytes], Reader]] = {
    **{
        name.lower(): (partial(_image, name.split("-")[0], **options), _read_image)
        for name, options in {
            "PNG": {}, "PNG-animated": {"frames": True}, "PNG-palette": {"mode": "P"}, "JPEG": {},
            "JPEG-progressive": {"progressive": True}, "GIF": {}, "GIF-animated": {"frames": True},
            "WEBP": {}, "WEBP-animated": {"frames": True}, "TIFF": {},
            "TIFF-deflate": {"compression": "tiff_adobe_deflate"}, "TIFF-lzw": {"compression": "tiff_lzw"},
            "TIFF-float": {"mode": "F"}, "BMP": {}, "JPEG2000": {}, "PPM": {},
        }.items()
    },
    "csv": (
        lambda: b"id,image,caption,questions\r\n"
        + b"".join(b'%d,a.png,"a red, thing",\r\n' % i for i in range(3)),
        partial(_read_set, "metadata.csv", _PNG),
    ),
    "jsonl": (lambda: _lines(_rows("a.png")), partial(_read_set, "metadata.jsonl", _PNG)),
    "json": (lambda: json.dumps(_rows("a.png")).encode(), partial(_read_set, "initial_data.json", _PNG)),
    "tar": (_tar, partial(_read_set, "shard-0.tar", {})),
    "parquet": (partial(_table, pq.write_table), partial(_read_set, "a.parquet", {})),
    "arrow": (
        partial(_table, _arrow),
        partial(_read_set, "data.arrow", {"state.json": b'{"_data_files": [{"filename": "data.arrow"}]}'}),
    ),
    "state": (
        lambda: b'{"_data_files": [{"filename": "data.arrow"}], "_indices_data_files": null}',
        partial(_read_set, "state.json", {"data.arrow": _table(_arrow)}),
    ),
    "tifa": (_tifa, partial(_read_file, "q.json", questions_from)),
    "pairs": (_pairs, partial(_read_file, "pairs.json", _import)),
    "pairs-parquet": (partial(_table, pq.write_table, True), partial(_read_file, "pairs.parquet", _import)),
    "safetensors": (
        lambda: save({"a": torch.ones(3, 4), "b": torch.zeros(5)}, {"format": "pt"}),
        partial(_read_file, "w.safetensors", lambda path: (tensor_layout(path), open_file(path))),
    ),
    "torch": (_torch, partial(_read_file, "w.bin", open_file)),
    "tokenizer": (
        lambda: (EMBEDDED_MODEL / "tokenizer.json").read_bytes(),
        partial(_read_file, "tokenizer.json", _said),
    ),
    "config": (
        lambda: (EMBEDDED_MODEL / "config.json").read_bytes(),
        partial(_read_beside, "config.json", EMBEDDED_MODEL, load_model),
    ),
    "image-tokenizer": (
        lambda: (IMAGE_TOKENIZER / "config.json").read_bytes(),
        partial(_read_beside, "config.json", IMAGE_TOKENIZER, load_image_tokenizer),
    ),
}  # fmt: skip
"""Name -> (a whole file, who reads one)."""
TEXT = ("csv", "jsonl", "json", "state", "tifa", "pairs", "tokenizer", "config", "image-tokenizer")


def damaged(data: bytes, rng: Random, text: bool) -> bytes:
    """A file with one to six things wrong; mostly near its ends, where headers are."""
    found = bytearray(data)
    if text and rng.random() < 0.6:
        for _ in range(rng.randint(1, 3)):
            _replace_value(found, rng)
        return bytes(found)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(found) + 1)
        if rng.random() < 0.5:
            place = min(len(found), rng.randrange(128))
        elif rng.random() < 0.3:
            place = max(0, len(found) - rng.randrange(128))
        match rng.randrange(6):
            case 0 if place < len(found):
                found[place] ^= 1 << rng.randrange(8)
            case 1:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(_NUMBERS) & ((1 << 8 * width) - 1)
                found[place : place + width] = number.to_bytes(width, rng.choice(("big", "little")))
            case 2:
                del found[place : place + rng.randrange(64)]
            case 3:
                found[place:place] = found[place : place + rng.randrange(64)]
            case 4:
                del found[max(place, 8) :]
            case 5 if text:
                end = place + rng.randrange(12)
                found[place:end] = rng.choice(_TEXTS)
    return bytes(found)


def _replace_value(found: bytearray, rng: Random) -> None:
    """Puts something else where a value of JSON stands."""
    colons = [place for place, one in enumerate(found) if one == ord(":")]
    if colons:
        place = rng.choice(colons) + 1
        ends = [end for end in (found.find(b",", place), found.find(b"}", place)) if end > 0]
        end = min(ends, default=len(found))
        found[place:end] = rng.choice(_TEXTS)


def mended(data: bytes) -> bytes:
    """A PNG whose chunks have right sums again, so that what stands in them is looked at."""
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        body = data[place + 4 : place + 8 + length]
        parts.append(data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body)))
        place += 12 + length
    return b"".join([*parts, data[place:]])


def run(name: str, number: int, seed: int) -> dict[str, int]:
    """How many of `number` damaged files were read, refused and quarantined; any other error is a fault."""
    make, read = FORMATS[name]
    whole, rng = make(), Random(f"{name} {seed}")
    counts: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tried in range(number):
            data = damaged(whole, rng, name in TEXT)
            if name.startswith("png") and tried % 4:
                data = mended(data)
            with tempfile.TemporaryDirectory() as folder:
                try:
                    counts[read(data, Path(folder))] += 1
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    raise AssertionError(f"{name} {tried} of seed {seed}: {data[:2000]!r}") from error
    return dict(counts)


if __name__ == "__main__":
    done = run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({**done, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10}))
