"""What all of these scripts do: start `hermes`, kill it with all its processes, compare what is left."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from engine.files.atomic import write_file
from engine.records import Record


def start(run: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A command of `hermes` on a run, in a process group of its own; its output lies beside the folder."""
    command = [sys.executable, "-m", "hermes_cli.main", *arguments, "--run", str(run)]
    with run.with_name(f"{run.name}.out").open("ab") as to:
        return subprocess.Popen(command, stdout=to, stderr=to, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and its whole group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def through(run: Path, *arguments: str) -> float:
    """Lets a command come through; returns its seconds.

    Raises:
        RuntimeError: it failed; its output says why.
    """
    begun = time.perf_counter()
    if code := start(run, *arguments).wait():
        raise RuntimeError(
            f"hermes ended with status {code}:\n{run.with_name(f'{run.name}.out').read_text()[-2000:]}"
        )
    return time.perf_counter() - begun


def same_bytes(ours: Path, theirs: Path, name: str) -> bool:
    """Whether a file, or every file below a folder, is there in both with the same bytes."""

    def content(path: Path) -> dict[str, bytes]:
        files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
        return {str(one.relative_to(path)): one.read_bytes() for one in files}

    found = content(ours / name)
    return bool(found) and found == content(theirs / name)


def options(name: str, description: str | None, **usual: int) -> argparse.Namespace:
    """Numbers with their usual values, and where the JSON goes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, value in usual.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=int, default=value, help=f"[{value}]")
    parser.add_argument("--to", type=Path, default=Path(f"runs/bench/{name}.json"))
    return parser.parse_args()


def write(report: Record, to: Path) -> None:
    """The JSON of a script."""
    write_file(to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {to}")
