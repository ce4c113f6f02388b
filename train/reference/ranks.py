"""The reference pass in several processes: each scores every n-th missing block of one store.

`python -m train.reference.ranks` is one of them: it reads its `Job` from stdin and writes a line for each
block that it has kept. Blocks are disjoint and each is written whole, so processes share nothing but the
folder. A process that loses its parent ends: its stdin closes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from queue import Queue

import msgspec

from engine import errors
from engine.errors import HermesError
from engine.machine.plan import shares
from engine.machine.probe import on_cores, read_machine
from engine.records import Record
from train.config import TrainConfig
from train.reference.reference import FREE, ReferenceBasis, ScoreBlocks, blocks_here, partial_of
from train.reference.store import PartialStore


class Job(Record):
    """What one process scores."""

    pairs: str
    checkpoint: str
    features: str
    store: str
    config: TrainConfig
    basis: ReferenceBasis
    rank: int
    cores: tuple[int, ...]
    threads: int
    blocks: tuple[int, ...]


class Line(Record):
    """What one process says: a block that is kept, or an error's type and message."""

    block: int = -1
    error: str = ""
    message: str = ""


def blocks_by_ranks(
    pairs: Path,
    checkpoint: Path,
    features: Path,
    path: Path,
    config: TrainConfig,
    basis: ReferenceBasis,
    ranks: int,
) -> ScoreBlocks:
    """Scoring by `ranks` processes on cores of their own, each with the model in its own memory."""

    def score(store: PartialStore, numbers: Sequence[int]) -> Iterable[int]:
        parts = shares(read_machine(), ranks)
        jobs = [
            Job(
                pairs=str(pairs),
                checkpoint=str(checkpoint),
                features=str(features),
                store=str(partial_of(path)),
                config=config,
                basis=basis,
                rank=rank,
                cores=parts[rank].cores,
                threads=parts[rank].threads,
                blocks=tuple(numbers[rank::ranks]),
            )
            for rank in range(min(ranks, len(numbers)))
        ]
        return _run(jobs)

    return score


def _run(jobs: Sequence[Job]) -> Iterator[int]:
    """Starts a process for each job; yields blocks as they come, and stops all when one fails."""
    lines: Queue[tuple[int, bytes]] = Queue()
    processes = [_start(job) for job in jobs]
    for rank, process in enumerate(processes):
        threading.Thread(target=_read, args=(rank, process, lines), daemon=True).start()
    try:
        running = len(processes)
        while running:
            rank, text = lines.get()
            if text:
                yield _block_of(text)
                continue
            running -= 1
            if status := processes[rank].wait():
                raise HermesError(
                    f"reference: process {rank} of {len(jobs)} ended with status {status}; finished blocks "
                    "are kept: run `hermes reference` again, with fewer --ranks if memory was short"
                )
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _start(job: Job) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    with on_cores(job.cores):
        process = subprocess.Popen(
            [sys.executable, "-m", "train.reference.ranks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
    assert process.stdin
    process.stdin.write(msgspec.json.encode(job) + b"\n")
    process.stdin.flush()
    return process


def _read(rank: int, process: subprocess.Popen[bytes], lines: Queue[tuple[int, bytes]]) -> None:
    assert process.stdout
    for line in process.stdout:
        lines.put((rank, line))
    lines.put((rank, b""))


def _block_of(text: bytes) -> int:
    line = msgspec.json.decode(text, type=Line)
    if line.error:
        raise getattr(errors, line.error)(line.message)
    return line.block


def _score(job: Job) -> Iterable[int]:
    import torch

    from engine.checkpoints.weights import load_model
    from train.data.batch import Layout
    from train.data.preferences import load_preferences
    from train.distributed.device import open_device
    from train.logps.row_logps import RowLogps

    torch.set_num_threads(job.threads)
    config, checkpoint = job.config, Path(job.checkpoint)
    with open_device(config, job.rank % max(1, torch.cuda.device_count()), FREE) as device:
        loaded = load_model(checkpoint, getattr(torch, config.dtype)).to(device)
        model = RowLogps(loaded, config.image_vocabulary)
        layout = Layout.load(checkpoint, Path(job.features))
        score = blocks_here(load_preferences(Path(job.pairs)), job.basis, layout, model)
        yield from score(PartialStore.open(Path(job.store)), job.blocks)


def main() -> None:
    """One process's work, with stdout for its lines alone."""
    lines = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    # Unbuffered: a thread that waits on a buffered stdin cannot be left behind.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        job = msgspec.json.decode(stdin.readline(), type=Job)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for block in _score(job):
            lines.write(msgspec.json.encode(Line(block=block)) + b"\n")
    except HermesError as error:
        line = Line(error=type(error).__name__, message=str(error))
        lines.write(msgspec.json.encode(line) + b"\n")


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
