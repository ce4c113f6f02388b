"""Preferences as one Parquet table, with the images inside as Hugging Face's Image features.

The columns have the names of the official pair file, so that people can read the table and other tools filter
it. `record` holds the native record, which no other column does whole: codes, token ids, seeds, answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from curate.exchange.pictures import LOSE, REAL, WIN
from engine.records import Preference

FILE = "train.parquet"
GROUP_ROWS, GROUP_BYTES = 64, 32 << 20
"""A row group ends with either: it is what a reader, and the writer, hold in memory."""

IMAGES = {"image": REAL, "image_win": WIN, "image_lose": LOSE}
"""Column -> side."""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TYPES: dict[str, pa.DataType] = {
    "id": pa.string(),
    "image": _IMAGE,
    "question": pa.string(),
    "caption": pa.string(),
    "caption_win": pa.string(),
    "caption_lose": pa.string(),
    "bert_score_win": pa.float64(),
    "bert_score_lose": pa.float64(),
    "image_win": _IMAGE,
    "image_lose": _IMAGE,
    "vqa_score_win": pa.float64(),
    "vqa_score_lose": pa.float64(),
    "record": pa.string(),
    "tokenizers": pa.string(),
    "features": pa.large_binary(),
}


def schema() -> pa.Schema:
    """The columns, with the metadata by which `datasets` opens images."""
    dtypes = {pa.string(): "string", pa.float64(): "float64", pa.large_binary(): "large_binary"}
    features = {
        name: {"_type": "Image"} if name in IMAGES else {"dtype": dtypes[kind], "_type": "Value"}
        for name, kind in _TYPES.items()
    }
    return pa.schema(_TYPES, {"huggingface": json.dumps({"info": {"features": features}})})


def table_row(
    preference: Preference, pictures: dict[str, bytes], question: str, tokenizers: str, features: bytes
) -> dict[str, Any]:
    """A row; a side that the preference lacks is null."""
    captions, images = preference.captions, preference.images
    return {
        "id": preference.id,
        **{name: _embedded(side, pictures.get(side)) for name, side in IMAGES.items()},
        "question": question,
        "caption": preference.caption,
        "caption_win": captions.win.text if captions else None,
        "caption_lose": captions.lose.text if captions else None,
        "bert_score_win": captions.win.score if captions else None,
        "bert_score_lose": captions.lose.score if captions else None,
        "vqa_score_win": images.win.score if images else None,
        "vqa_score_lose": images.lose.score if images else None,
        "record": msgspec.json.encode(preference).decode(),
        "tokenizers": tokenizers,
        "features": features or None,
    }


def _embedded(side: str, picture: bytes | None) -> dict[str, Any] | None:
    return {"bytes": picture, "path": f"{side}.png"} if picture else None


class TableFile:
    """A Parquet file that grows by row groups."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, schema(), compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row of `table_row`."""
        self._rows.append(row)
        self._bytes += sum(len(row[name]["bytes"]) for name in IMAGES if row[name])
        self._bytes += len(row["record"]) + len(row["features"] or b"")
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema()))
        self._rows, self._bytes = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()
