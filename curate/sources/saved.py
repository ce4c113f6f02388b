"""The folder that `datasets.save_to_disk` leaves: which Arrow files hold its rows."""

from __future__ import annotations

from pathlib import Path

import msgspec

from curate.sources.splits import split_of
from engine.errors import UNREADABLE, DataError
from engine.records import Record

STATE, SPLITS = "state.json", "dataset_dict.json"


class _DataFile(Record):
    filename: str


class _State(Record, rename={"files": "_data_files", "indices": "_indices_data_files"}):
    files: tuple[_DataFile, ...]
    indices: object = None


class _Splits(Record):
    splits: tuple[str, ...]


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a saved data set; of a saved dictionary of data sets, those of its train split.

    Raises:
        DataError: state.json is damaged or names files elsewhere, or there is no train split.
    """
    try:
        if (folder / SPLITS).is_file():
            splits = msgspec.json.decode((folder / SPLITS).read_bytes(), type=_Splits).splits
            train = [name for name in splits if split_of(name) == "train"]
            if len(train) != 1:
                listed = ", ".join(splits)
                raise DataError(f"{folder}: no train split; name the folder of one of its splits ({listed})")
            folder = folder / train[0]
        state = msgspec.json.decode((folder / STATE).read_bytes(), type=_State)
    except (OSError, *UNREADABLE) as error:
        raise DataError(f"{folder / STATE}: not as `save_to_disk` writes it: {error}") from error
    if state.indices:
        raise DataError(
            f"{folder}: its rows are chosen by a table of indices; "
            "call flatten_indices() on the data set and save it again"
        )
    names = [one.filename for one in state.files]
    if not names:
        raise DataError(f"{folder / STATE}: names no data files; the data set is empty")
    if outside := [name for name in names if Path(name).name != name]:
        raise DataError(f"{folder / STATE}: names a file outside its folder: {outside[0]!r}")
    return [folder / name for name in names]
