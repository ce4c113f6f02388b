"""What an experiment has measured, kept apart from its weights and pictures: small enough to be committed.

With it a clone on another machine takes up rows where this one left them: what is measured is not trained
again.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.experiment.cells import Base, Final, Task
from benchmarks.experiment.sharing import EVALUATION, EVENTS, SECONDS, measurement
from curate.store.files import SUMMARY
from engine.checkpoints.weights import fingerprint
from engine.errors import DataError, StaleError
from engine.files.atomic import write_file
from engine.files.layout import WEIGHTS, resolve_model
from train.config import METRICS

KEPT = frozenset((EVALUATION, EVENTS, SECONDS, SUMMARY, METRICS))
"""Names of the files that results are made of."""


def kept_path(results: Path) -> Path:
    """Where what is measured is kept, beside the results."""
    return results.with_name(f"{results.stem}-runs.tar.gz")


def keep(root: Path, tasks: Sequence[Task], path: Path) -> None:
    """Writes all that results are made of; the same files give the same bytes.

    Nothing is kept of what is not measured to its end: nothing could go on from it without weights and pairs.
    """
    folders = [task.folder for task in tasks if isinstance(task, Base | Final) and task.done()]
    folders += [task.cell.folder for task in tasks if isinstance(task, Final) and task.done()]
    files = {file for folder in folders for file in folder.rglob("*") if file.name in KEPT and file.is_file()}
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for file in sorted(files):
            content = file.read_bytes()
            entry = tarfile.TarInfo(file.relative_to(root).as_posix())
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    write_file(path, stream.getvalue())


def restore(path: Path, root: Path) -> int:
    """Puts what is kept into an experiment's folder, and returns the number of files; what is there stays.

    Raises:
        DataError: it cannot be read.
    """
    if not path.is_file():
        return 0
    put = 0
    try:
        with tarfile.open(path, "r:gz") as tar:
            for entry in tar:
                target = root / entry.name
                if entry.isfile() and target.name in KEPT and not target.exists():
                    tar.extract(entry, root, filter="data")
                    put += 1
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{path}: cannot be read: {error}; restore it, or give --afresh") from error
    return put


def require_same_bases(tasks: Iterable[Task]) -> None:
    """Refuses measurements of other base weights than those that are here.

    Raises:
        StaleError: names the base.
    """
    for task in tasks:
        if not isinstance(task, Base):
            continue
        found, model = measurement(task.folder, 0), resolve_model(task.settings.model)
        if found is None or not (model / WEIGHTS).is_file():
            continue
        if (now := fingerprint(model)) != found.fingerprint:
            raise StaleError(
                f"{task.folder}: weights {found.fingerprint} were measured, {model} has {now}; "
                "work in another --to folder, with --afresh"
            )
