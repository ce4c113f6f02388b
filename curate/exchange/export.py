"""Preferences written in another tool's layout, into a folder that appears whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from curate.exchange.layouts import (
    CAPTION_PAIRS,
    IMAGE_PAIRS,
    LAYOUTS,
    LLAMA_FACTORY_NAME,
    Fields,
    LayoutRow,
    LeftOut,
    llama_factory_info,
)
from curate.exchange.pictures import codes_of, draw, picture_name
from engine.errors import ConfigError, DataError
from engine.files.atomic import atomic_folder, check_free
from engine.files.clip_features import FEATURES
from engine.records import Preference, Record

if TYPE_CHECKING:
    from curate.exchange.tokenizers import Tokenizers

PARQUET = "parquet"
FORMATS = (*LAYOUTS, PARQUET)
_OPEN = {
    "official": "HermesFlow's released `pair_dpo_data.json`. Paths are relative to this folder.",
    "trl": 'Open it with `datasets.load_dataset("FOLDER")`: the columns are `prompt`, `chosen`,'
    "\n`rejected` and `images`, as TRL's trainers take them.",
    "ms-swift": "Give ms-swift `--dataset captions.jsonl images.jsonl`, with `ROOT_IMAGE_DIR` set to this"
    "\nfolder. In `images.jsonl` the answer is the same, and the image is what was preferred or rejected.",
    "llama-factory": "Give LLaMA-Factory this folder as `dataset_dir` and as `media_dir`, and"
    f"\n`dataset: {LLAMA_FACTORY_NAME}`.",
    "align-anything": "`image_to_text.json` and `text_to_image.json` hold a task each. Paths are relative to"
    "\nthis folder.",
    "parquet": 'Open it with `datasets.load_dataset("FOLDER")` or any Parquet reader. The images are inside.'
    "\n`record` holds each native record as JSON, with codes, token ids and seeds.",
}
"""Layout -> how its tool opens it."""


class ExportedPairs(Record):
    """What an export wrote."""

    counts: dict[str, int]
    """items, caption pairs, image pairs."""
    left_out: dict[str, int]
    """Kind and reason -> pairs that the layout cannot hold."""


def check_layout(layout: str, to: Path) -> None:
    """Whether an export can begin, before anything is loaded.

    Raises:
        ConfigError: the layout is not known.
        DataError: `to` is there already.
    """
    if layout not in FORMATS:
        raise ConfigError(f"--format {layout}: not known; known are {', '.join(FORMATS)}")
    check_free(to)


def export_pairs(
    preferences: Iterable[Preference],
    to: Path,
    layout: str,
    tokenizers: Tokenizers,
    curation: Path,
    progress: Callable[[int], None] = lambda count: None,
) -> ExportedPairs:
    """Writes preferences into the new folder `to`; `curation` is the folder that CLIP features lie in.

    One preference and its images are in memory at a time; of Parquet, one row group.

    Raises:
        ConfigError: the layout is not known.
        DataError: `to` is there already, or cannot be written.
    """
    check_layout(layout, to)
    counts, left_out = Counter({"items": 0, CAPTION_PAIRS: 0, IMAGE_PAIRS: 0}), Counter[str]()

    def rows(folder: Path) -> Iterator[LayoutRow]:
        for place, preference in enumerate(preferences):
            counts["items"] += 1
            if layout == PARQUET:
                found = _table_rows(preference, tokenizers, curation)
            else:
                found = _rows(preference, place, layout, folder, tokenizers)
            for row in found:
                if isinstance(row, LeftOut):
                    left_out[f"{row.pairs}: {row.reason}"] += 1
                else:
                    counts.update(row.pairs)
                    yield row
            progress(1)

    with atomic_folder(to) as folder:
        if layout == PARQUET:
            from curate.exchange.table import FILE, write_table

            write_table((row.fields for row in rows(folder)), folder / FILE)
        else:
            _write_rows(rows(folder), folder)
        if layout == "llama-factory":
            (folder / "dataset_info.json").write_bytes(_formatted(llama_factory_info()))
        exported = ExportedPairs(counts=dict(counts), left_out=dict(sorted(left_out.items())))
        (folder / "README.md").write_text(_card(layout, exported, tokenizers.question), "utf-8")
    return exported


def _rows(
    preference: Preference, place: int, layout: str, folder: Path, tokenizers: Tokenizers
) -> Iterator[LayoutRow | LeftOut]:
    """The rows of a preference; writes the images that they name."""
    name = partial(picture_name, place, preference.id)
    sides: list[str] = []
    for row in LAYOUTS[layout](preference, name, tokenizers.question):
        if isinstance(row, LayoutRow):
            sides += row.images
        yield row
    for side, picture in draw(preference, sides, tokenizers.decode).items():
        path = folder / name(side)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)


def _table_rows(
    preference: Preference, tokenizers: Tokenizers, curation: Path
) -> Iterator[LayoutRow | LeftOut]:
    from curate.exchange.table import FILE, table_row

    pictures = draw(preference, codes_of(preference), tokenizers.decode)
    features = _features(curation, preference.image_features)
    row = table_row(preference, pictures, tokenizers.question, tokenizers.name, features)
    pairs = {CAPTION_PAIRS: preference.captions, IMAGE_PAIRS: preference.images}
    yield LayoutRow(FILE, row, (), tuple(name for name, pair in pairs.items() if pair))


def _features(curation: Path, name: str) -> bytes:
    path = curation / FEATURES / name
    if name and (Path(name).name != name or not path.is_file()):
        raise DataError(f"{path}: the CLIP features of a real image are missing; curate again")
    return path.read_bytes() if name else b""


def _write_rows(rows: Iterable[LayoutRow], folder: Path) -> None:
    """Writes rows as they come: a `.json` is one array, a `.jsonl` one object a line."""
    streams: dict[str, BinaryIO] = {}
    with ExitStack() as stack:
        for row in rows:
            first = row.file not in streams
            if first:
                streams[row.file] = stack.enter_context((folder / row.file).open("wb"))
            if row.file.endswith(".jsonl"):
                streams[row.file].write(msgspec.json.encode(row.fields) + b"\n")
            else:
                streams[row.file].write((b"[\n" if first else b",\n") + _formatted(row.fields))
        for file, stream in streams.items():
            if not file.endswith(".jsonl"):
                stream.write(b"\n]\n")


def _formatted(fields: Fields) -> bytes:
    return msgspec.json.format(msgspec.json.encode(fields), indent=4)


def _card(layout: str, exported: ExportedPairs, question: str) -> str:
    """README.md, a data set card."""
    counts = "\n".join(f"| {what} | {count} |" for what, count in exported.counts.items())
    left_out = "".join(f"\nLeft out: {count} {reason}." for reason, count in exported.left_out.items())
    return f"""---
tags:
- dpo
- preference
- image
---
# Preference pairs of a unified multimodal model

{_OPEN[layout]}

| | |
|---|---|
{counts}
{left_out}
Captions answer "{question}". All images, real ones too, are decoded from codes by the model's image
tokenizer; they are not the files of the data set.

Written by `hermes pairs --format {layout}`.
"""
