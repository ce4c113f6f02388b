"""What kind of data set lies at a path, told by names and first bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from curate.sources.fields import IMAGE, first_of
from curate.sources.journeydb import TASKS
from curate.sources.json_objects import json_objects
from curate.sources.listing import LISTINGS
from curate.sources.official import INITIAL
from curate.sources.saved import SPLITS, STATE
from engine.errors import DataError
from engine.records import Record

KINDS = {
    "official": INITIAL,
    "journeydb": "annotations, *.jsonl",
    "folder": ", ".join(LISTINGS),
    "parquet": "*.parquet",
    "datasets": f"{STATE} or {SPLITS}",
    "webdataset": "*.tar",
}
"""Prefix -> the files by which the kind is known."""
ACCEPTED = "; ".join(f"{kind} ({files})" for kind, files in KINDS.items())
_SPLIT = re.compile(r"(train|training|test|validation|valid|val|dev)(?=[-_.\d])")
_LOOKED_AT = 20
"""Objects of a JSON file of which the first whole one tells the kind."""


class Finding(Record):
    """A data set: its kind and its files in order."""

    kind: str
    files: tuple[Path, ...]


def detect(path: Path, kind: str = "") -> Finding:
    """The data set at a path, of a kind where one is given.

    Raises:
        DataError: there is none, or more than one.
    """
    if not path.exists():
        raise DataError(
            f"{path}: there is no such file or folder; --data takes `shapes` or the path of a data set"
        )
    try:
        findings = _in_folder(path) if path.is_dir() else _of_file(path, kind)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    findings = [one for one in findings if kind in ("", one.kind)]
    if not findings:
        wanted = f"no {kind} data ({KINDS[kind]}) here" if kind else "nothing here that --data takes"
        raise DataError(
            f"{path}: {wanted}; there are `shapes`, {ACCEPTED}; `parquet:PATH` and the like force one"
        )
    if len(findings) > 1:
        listed = ", ".join(f"{one.kind} ({one.files[0].name})" for one in findings)
        raise DataError(
            f"{path}: several data sets lie here: {listed}; "
            f"name one by its file, or by its kind as in `{findings[0].kind}:PATH`"
        )
    return findings[0]


def _of_file(path: Path, forced: str) -> list[Finding]:
    if forced and forced != "datasets":
        return [Finding(forced, (path,))]
    with path.open("rb") as stream:
        head = stream.read(512)
    suffix = path.suffix.lower()
    if head.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: it is compressed; unpack it with gunzip first")
    if head.startswith(b"PAR1") or suffix == ".parquet":
        kind = "parquet"
    elif head[257:262] == b"ustar" or suffix == ".tar":
        kind = "webdataset"
    elif path.name in LISTINGS or suffix == ".csv":
        kind = "folder"
    else:
        kind = "official" if path.name == INITIAL else _kind_of_json(path)
    return [Finding(kind, (path,))] if kind else []


def _kind_of_json(path: Path) -> str:
    """The kind that the first whole object has the fields of; empty where it is none of ours."""
    with path.open("rb") as stream:
        first = next(
            (one for _, one in islice(json_objects(stream), _LOOKED_AT) if isinstance(one, dict) and one),
            None,
        )
        stream.seek(0)
        is_array = stream.read(64).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"[")
    if first is None:
        return ""
    if any(task in first for task in TASKS):
        return "journeydb"
    if first_of(first, IMAGE) is None:
        return ""
    return "official" if is_array or path.suffix.lower() == ".json" else "folder"


def _in_folder(folder: Path) -> list[Finding]:
    names = _names(folder)
    findings = [Finding("folder", (folder / name,)) for name in LISTINGS if name in names]
    if INITIAL in names:
        findings.append(Finding("official", (folder / INITIAL,)))
    if STATE in names or SPLITS in names:
        findings.append(Finding("datasets", (folder,)))
    data = folder / "data"
    for kind, ending in (("parquet", ".parquet"), ("webdataset", ".tar")):
        shards = [folder / name for name in names if name.endswith(ending)]
        if not shards and data.is_dir():
            shards = [data / name for name in _names(data) if name.endswith(ending)]
        if shards:
            findings.append(Finding(kind, _train_split(folder, shards)))
    lines = [folder / name for name in names if name.endswith(".jsonl") and name not in LISTINGS]
    return findings + [Finding("journeydb", (one,)) for one in lines if _kind_of_json(one) == "journeydb"]


def _names(folder: Path) -> list[str]:
    """The files that may belong to a data set, sorted; a folder may hold millions of others."""
    endings = (INITIAL, STATE, SPLITS, ".jsonl", ".csv", ".parquet", ".tar")
    with os.scandir(folder) as entries:
        names = (one.name for one in entries)
        return sorted(name for name in names if name.endswith(endings) and not name.startswith("."))


def _train_split(folder: Path, shards: Sequence[Path]) -> tuple[Path, ...]:
    """All shards; where their names tell several splits, those of the train split."""
    splits: dict[str, list[Path]] = {}
    for shard in shards:
        named = _SPLIT.match(shard.name)
        splits.setdefault(named.group() if named else "", []).append(shard)
    if len(splits) == 1:
        return tuple(shards)
    if "train" not in splits:
        listed = ", ".join(name or "others" for name in splits)
        raise DataError(
            f"{folder}: holds shards of several splits ({listed}) and none is train; "
            "name one file, or part the folder"
        )
    return tuple(splits["train"])
