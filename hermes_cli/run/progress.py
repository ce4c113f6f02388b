"""How far the stages of a round are, counted in the files that they leave; imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from curate.evaluation.config import EvalConfig
from curate.store.shards import FOLDER, MANIFEST, OPEN
from hermes_cli.run.folder import RunFolder

STAGES = ("curate", "reference", "train", "eval")
UNITS = {"curate": "items", "reference": "preferences", "train": "steps", "eval": "items"}
METRICS = "metrics.jsonl"


def is_done(folder: RunFolder, number: int, stage: str, evaluation: EvalConfig) -> bool:
    """Whether a stage is complete; an evaluation by other settings, or without its items, is not.

    Whether stored numbers are of the present weights is not looked at: that would read the weights.
    """
    if stage == "curate":
        return folder.curated(number)
    if stage == "reference":
        return folder.reference(number).is_dir()
    if stage == "train":
        return folder.trained(number)
    found = _json(folder.evaluation(number))
    return bool(found.get("per_item")) and found.get("config") == msgspec.to_builtins(evaluation)


def last_sign(folder: RunFolder, number: int, stage: str) -> float:
    """When a stage last left something behind, in seconds since the epoch; 0 where it left nothing."""
    store = folder.reference(number)
    signs = {
        "curate": (folder.curation(number) / FOLDER).glob("*.jsonl"),
        "reference": store.with_name(store.name + ".partial").glob("done/c/*"),
        "train": folder.training(number).glob(METRICS),
    }.get(stage, ())
    return max((path.stat().st_mtime for path in signs), default=0.0)


def units_done(folder: RunFolder, number: int, stage: str) -> int:
    """Rows curated, preferences scored, training steps taken, or items evaluated: those only at the end."""
    if stage == "curate":
        return pairs_in(folder, number) if folder.imported(number) else _curated(folder.curation(number))
    if stage == "reference":
        return _scored(folder, number)
    if stage == "train":
        return _lines(folder.training(number) / METRICS)
    items = _json(folder.evaluation(number)).get("items")
    return items if isinstance(items, int) else 0


def _curated(folder: Path) -> int:
    """Rows in sealed and open shards."""
    sealed = _json(folder / MANIFEST).get("shards", [])
    blocks = {shard["block"] for shard in sealed}
    rows: int = sum(shard["rows"] for shard in sealed)
    # Between seal and removal a block has both.
    waiting = [path for path in (folder / FOLDER).glob("*" + OPEN) if int(path.name[:6]) not in blocks]
    return rows + sum(map(_lines, waiting))


def _scored(folder: RunFolder, number: int) -> int:
    """Preferences in blocks of log-probs that are marked done."""
    store = folder.reference(number)
    if store.is_dir():
        return pairs_in(folder, number)
    partial = store.with_name(store.name + ".partial")
    grid = _json(partial / "caption_win" / "zarr.json").get("chunk_grid", {})
    size = grid.get("configuration", {}).get("chunk_shape", [0])[0]
    return min(sum(1 for _ in (partial / "done" / "c").glob("*")) * size, pairs_in(folder, number))


def pairs_in(folder: RunFolder, number: int) -> int:
    """Preferences of a round."""
    return _lines(folder.pairs(number))


def _lines(path: Path) -> int:
    """Whole lines of a file."""
    if not path.is_file():
        return 0
    count = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            count += block.count(b"\n")
    return count


def _json(path: Path) -> dict[str, Any]:
    """A file's object; an empty one where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict)
    except (OSError, msgspec.MsgspecError):
        return {}


def size_on_disk(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed, and what vanishes meanwhile is left out."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        total += size_on_disk(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
                except OSError:
                    continue
    except OSError:
        return 0
    return total
