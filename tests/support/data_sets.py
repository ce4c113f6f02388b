"""Small data sets of every kind, made in code."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from curate.sources import DataRow, open_source

RED = (200, 30, 30)
QUESTION = {"question": "is it red?", "choices": ["yes", "no"], "answer": "yes", "kind": "color"}
Fields = dict[str, Any]


def png(colour: tuple[int, int, int] = RED) -> bytes:
    """A small picture of one colour, wider than high."""
    stream = io.BytesIO()
    Image.new("RGB", (80, 60), colour).save(stream, "PNG")
    return stream.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A PNG that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def folder_with_image(folder: Path, *names: str) -> Path:
    """A folder that holds a.png, or images of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("a.png",):
        (folder / name).write_bytes(png())
    return folder


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    """JSON lines; a string is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A plain archive of files."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def rows_of(data: object, split: str = "") -> list[DataRow]:
    """All rows of a data set."""
    return list(open_source(str(data), split, 0, 48).rows())


def reasons(rows: Sequence[DataRow]) -> dict[str, str]:
    """Where and why rows are quarantined."""
    return {row.where: row.reason for row in rows if row.item is None}


def ids(rows: Sequence[DataRow]) -> list[str]:
    """The ids of the usable rows."""
    return [row.item.id for row in rows if row.item is not None]
