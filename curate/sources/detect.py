"""What kind of data set lies at a path, told by names and first bytes."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path

from curate.sources.confine import ENDINGS
from curate.sources.journeydb import TASKS
from curate.sources.json_objects import json_objects
from curate.sources.listing import LISTINGS, TABLES, image_names, table_header
from curate.sources.object_file import is_object_file
from curate.sources.official import INITIAL, QUESTIONS, official_files
from curate.sources.saved import SPLITS, STATE
from curate.sources.spelling import IMAGE, IMAGE_NAMES, address_hint, first_of, plain
from curate.sources.splits import train_files
from engine.errors import DataError
from engine.records import Record

KINDS = {
    "official": INITIAL,
    "journeydb": "annotations, *.jsonl",
    "folder": ", ".join(LISTINGS),
    "object": "COCO captions, *.json",
    "texts": "a .txt beside each image",
    "parquet": "*.parquet",
    "datasets": f"{STATE} or {SPLITS}",
    "webdataset": "*.tar",
}
"""Prefix -> the files by which the kind is known."""
ACCEPTED = "; ".join(f"{kind} ({files})" for kind, files in KINDS.items())
_LOOKED_AT = 20
"""Objects of a JSON file of which the first whole one tells the kind."""
_ADDRESS = re.compile(r"(?:.*/)?(https?|s3|gs|hf|ftp):/+(.*)", re.IGNORECASE | re.DOTALL)
"""Also as part of a path, which knows no double slash."""
_OF_LISTS = re.compile(rb'\{\s*"[^"]*"\s*:\s*[\[{]')
"""How an object begins that holds all rows."""
_LISTS = (".json", ".jsonl", *TABLES)
_STATES = (INITIAL, QUESTIONS, "dataset_infos.json", "dataset_info.json", STATE, SPLITS)


class Finding(Record):
    """A data set: its kind and its files in order."""

    kind: str
    files: tuple[Path, ...]


def detect(path: Path, kind: str = "") -> Finding:
    """The data set at a path, of a kind where one is given.

    Raises:
        DataError: there is none, or more than one.
    """
    if not os.path.exists(path):
        raise DataError(_absent(path))
    try:
        findings = _in_folder(path, kind) if path.is_dir() else [_of_file(path, kind)]
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


def _absent(path: Path) -> str:
    """What to do about a path at which nothing lies."""
    if address := _ADDRESS.fullmatch(str(path)):
        place = "://".join(address.groups())
        return f"{place}: an address; --data takes what lies on this machine: download it first"
    missing = f"{path}: there is no such file or folder; --data takes `shapes` or the path of a data set"
    name = os.path.relpath(path)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        missing += f"; from the Hugging Face Hub, download it first: hf download --repo-type dataset {name}"
    return missing


def _of_file(path: Path, forced: str = "") -> Finding:
    """The data set that a file is; raises DataError with the reason why it is none."""
    if not path.is_file():
        raise DataError(f"{path}: it is no file")
    with path.open("rb") as stream:
        head = stream.read(512)
    suffix = path.suffix.lower()
    if forced and forced != "datasets":
        kind = forced
    elif not head:
        raise DataError(f"{path}: it is empty")
    elif head.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        raise DataError(f"{path}: it is compressed; unpack it with gunzip or unzip first")
    elif suffix in ENDINGS:
        raise DataError(f"{path}: it is an image; name a file of captions, or the folder that holds both")
    elif head.startswith(b"PAR1") or suffix == ".parquet":
        kind = "parquet"
    elif head[257:262] == b"ustar" or suffix == ".tar":
        kind = "webdataset"
    elif path.name in LISTINGS or suffix in TABLES:
        if suffix in TABLES:
            table_header(path)
        kind = "folder"
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: it is UTF-16; save it as UTF-8")
    else:
        kind = "official" if path.name == INITIAL else _kind_of_json(path)
    return Finding(kind, official_files(path) if kind == "official" else (path,))


def _kind_of_json(path: Path) -> str:
    """The kind that the first whole object has the fields of; raises DataError where it is none of ours."""
    with path.open("rb") as stream:
        found = [one for _, one in islice(json_objects(stream), _LOOKED_AT)]
        stream.seek(0)
        head = stream.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    is_array = head.startswith(b"[")
    if _OF_LISTS.match(head) and not isinstance(found[0], dict):
        # Larger than a row may be: what was found are parts of it.
        if is_object_file(path):
            return "object"
        raise DataError(f"{path}: it is one JSON object without an end; it may be torn, download it again")
    rows = [one for one in found if isinstance(one, dict) and one]
    if any(task in one for one in rows for task in TASKS):
        return "journeydb"
    if any(first_of(plain(one), IMAGE) is not None for one in rows):
        return "official" if is_array or path.suffix.lower() == ".json" else "folder"
    if not is_array and is_object_file(path):
        return "object"
    if rows:
        fields = ", ".join(rows[0])[:80]
        raise DataError(f"{path}: its rows have the fields {fields}, no {IMAGE_NAMES}{address_hint(rows[0])}")
    reason = next((one for one in found if isinstance(one, str)), "it has no fields")
    raise DataError(f"{path}: none of its rows can be read; the first: {reason}")


def _in_folder(folder: Path, kind: str) -> list[Finding]:
    """The data sets of a folder, by the names of its files; where these tell nothing, by what is in them."""
    names = _names(folder)
    findings = [Finding("folder", (folder / name,)) for name in LISTINGS if name in names]
    if INITIAL in names:
        findings.append(Finding("official", official_files(folder / INITIAL)))
    if STATE in names or SPLITS in names:
        findings.append(Finding("datasets", (folder,)))
    data = folder / "data"
    for shard_kind, ending in (("parquet", ".parquet"), ("webdataset", ".tar")):
        shards = [folder / name for name in names if name.endswith(ending)]
        if not shards and data.is_dir():
            shards = [data / name for name in _names(data) if name.endswith(ending)]
        if shards:
            findings.append(Finding(shard_kind, train_files(folder, shards)))
    lines = [folder / name for name in names if name.endswith(".jsonl") and name not in LISTINGS]
    journey = [one for one in lines if _is_journey(one)]
    findings += [Finding("journeydb", (one,)) for one in train_files(folder, journey)]
    return [one for one in findings if kind in ("", one.kind)] or _by_content(folder, names, kind)


def _is_journey(path: Path) -> bool:
    try:
        return _kind_of_json(path) == "journeydb"
    except DataError:
        return False


def _by_content(folder: Path, names: list[str], kind: str) -> list[Finding]:
    """The data sets in files of any name; else those of a folder `train`."""
    images = image_names(folder)
    stems = {Path(name).stem for name in images}
    texts = [name for name in names if name.endswith(".txt") and name[:-4] in stems]
    passed = {*_STATES, *texts}
    found: dict[str, list[Path]] = {}
    reasons: list[DataError] = []
    for file in (folder / name for name in names if name not in passed):
        if file.suffix.lower() in _LISTS:
            try:
                found.setdefault(_of_file(file).kind, []).append(file)
            except DataError as error:
                reasons.append(error)
    findings = [_of_file(one) for files in found.values() for one in train_files(folder, files)]
    regular = tuple(folder / name for name in texts if (folder / name).is_file())
    findings += [Finding("texts", regular)] if regular else []
    if not findings and (folder / "train").is_dir():
        return _in_folder(folder / "train", kind)
    if not findings and not kind and reasons:
        raise reasons[0]
    if not findings and not kind and images:
        raise DataError(
            f"{folder}: holds images ({len(images)}) and no captions: add metadata.csv with the columns "
            "file_name and text, or a .txt of the same name beside each image"
        )
    return findings


def _names(folder: Path) -> list[str]:
    """The files that may belong to a data set, sorted; a folder may hold millions of others."""
    endings = (*_LISTS, ".parquet", ".tar")
    with os.scandir(folder) as entries:
        names = (one.name for one in entries)
        return sorted(name for name in names if name.lower().endswith(endings) and not name.startswith("."))
