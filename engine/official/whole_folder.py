"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from engine.errors import CheckpointError, HermesError


def check_free(to: Path, refusal: type[HermesError] = CheckpointError) -> None:
    """Whether a folder may be written at `to`, before any work is done.

    Raises:
        refusal: something is there already.
    """
    if to.is_dir() and not any(to.iterdir()):
        return
    if to.exists() or to.is_symlink():
        raise refusal(f"{to}: is there already and is left alone; name a new folder with --to")


@contextmanager
def whole_folder(to: Path, refusal: type[HermesError] = CheckpointError) -> Iterator[Path]:
    """A hidden folder beside `to` for the caller to fill; it takes its place when the block ends well.

    What an interrupted run left behind is cleared away first.

    Raises:
        refusal: something is there already, or the files cannot be written.
    """
    to = to.absolute()
    beside = to.with_name(f".{to.name}.unfinished")
    try:
        check_free(to, refusal)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        yield beside
        beside.replace(to)
    except (OSError, SafetensorError) as error:
        raise refusal(f"{to}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
