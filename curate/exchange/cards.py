"""What stands beside exported rows: a card for people, and the description that LLaMA-Factory wants."""

from __future__ import annotations

import msgspec

LLAMA_FACTORY_NAME = "hermes_captions"

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


def readme(layout: str, counts: dict[str, int], left_out: dict[str, int], question: str) -> bytes:
    """README.md, a data set card."""
    held = "\n".join(f"| {what} | {count} |" for what, count in counts.items())
    missing = "".join(f"\nLeft out: {count} {reason}." for reason, count in left_out.items())
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
{held}
{missing}
Captions answer "{question}". All images, real ones too, are decoded from codes by the model's image
tokenizer; they are not the files of the data set.

Written by `hermes pairs --format {layout}`.
""".encode()


def dataset_info() -> bytes:
    """LLaMA-Factory's dataset_info.json."""
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    entry = {"file_name": "pairs.json", "formatting": "sharegpt", "ranking": True, "columns": columns}
    return msgspec.json.format(msgspec.json.encode({LLAMA_FACTORY_NAME: entry}))
