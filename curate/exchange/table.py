"""Preferences as one Parquet table, with the images inside as Hugging Face's Image features.

The columns have the names of the official pair file, so that people can read the table and other tools filter
it. `record` holds the native record, which no other column does whole: codes, token ids, seeds, answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from curate.exchange.layouts import Fields, official_columns
from curate.exchange.pictures import REAL
from engine.records import Preference

FILE = "train.parquet"
GROUP_ROWS, GROUP_BYTES = 64, 32 << 20
"""A row group ends with either: it is what a reader, and the writer, hold in memory."""

IMAGES = ("image", "image_win", "image_lose")
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TEXT, _SCORE = pa.string(), pa.float64()
SCHEMA = pa.schema(
    {
        "id": _TEXT,
        "image": _IMAGE,
        "question": _TEXT,
        "caption": _TEXT,
        "caption_win": _TEXT,
        "caption_lose": _TEXT,
        "bert_score_win": _SCORE,
        "bert_score_lose": _SCORE,
        "image_win": _IMAGE,
        "image_lose": _IMAGE,
        "vqa_score_win": _SCORE,
        "vqa_score_lose": _SCORE,
        "record": _TEXT,
        "tokenizers": _TEXT,
        "features": pa.large_binary(),
    },
    # `datasets` opens these columns as images; it tells all others from their types.
    {"huggingface": json.dumps({"info": {"features": {name: {"_type": "Image"} for name in IMAGES}}})},
)


def table_row(
    preference: Preference, pictures: dict[str, bytes], question: str, tokenizers: str, features: bytes
) -> Fields:
    """A row; what the preference lacks is null."""

    def embedded(side: str) -> Fields | None:
        return {"bytes": pictures[side], "path": f"{side}.png"} if side in pictures else None

    return {
        "id": preference.id,
        "image": embedded(REAL),
        "question": question,
        **official_columns(preference, embedded),
        "record": msgspec.json.encode(preference).decode(),
        "tokenizers": tokenizers,
        "features": features or None,
    }


def write_table(rows: Iterable[Fields], path: Path) -> None:
    """Writes rows of `table_row` as they come, a row group in memory at a time."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))


def _groups(rows: Iterable[Fields]) -> Iterator[list[Fields]]:
    group: list[Fields] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["record"]) + len(row["features"] or b"")
        size += sum(len(row[name]["bytes"]) for name in IMAGES if row[name])
        if len(group) == GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
