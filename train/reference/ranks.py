"""The reference pass in several processes: each scores every n-th missing block of one store.

Blocks are disjoint and each is written whole, so processes share nothing but the folder. Each says through a
pipe of its own which block it has kept, or which error ended it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

import torch

from engine.errors import HermesError
from engine.machine.plan import Share, shares
from engine.machine.probe import on_cores, read_machine
from train.data.batch import Layout
from train.data.preferences import load_preferences
from train.distributed.device import open_device
from train.logps.row_logps import load_scorer
from train.reference.inputs import TrainingInputs
from train.reference.reference import FREE, ScoreBlocks, blocks_here, partial_of
from train.reference.store import PartialStore


class Job(NamedTuple):
    """What one process scores."""

    inputs: TrainingInputs
    """Without the preferences, which each process reads again: that is quicker than to send them."""
    store: Path
    rank: int
    share: Share
    blocks: tuple[int, ...]


def blocks_alone(
    inputs: TrainingInputs, store: PartialStore, numbers: Sequence[int], gpu: int = 0
) -> Iterator[int]:
    """Scoring in this process; the model is loaded when there is something to score."""
    with open_device(inputs.config, gpu, FREE) as device:
        scorer = load_scorer(inputs.frozen, inputs.config.dtype, device)
        layout = Layout.load(inputs.frozen, inputs.features)
        score = blocks_here(inputs.preferences, inputs.basis.reference, layout, scorer)
        yield from score(store, numbers)


def blocks_by_ranks(inputs: TrainingInputs, path: Path, ranks: int) -> ScoreBlocks:
    """Scoring by `ranks` processes on cores of their own, each with the model in its own memory."""

    def score(store: PartialStore, numbers: Sequence[int]) -> Iterator[int]:
        parts, sent = shares(read_machine(), ranks), inputs._replace(preferences=())
        return _run(
            [
                Job(sent, partial_of(path), rank, parts[rank], tuple(numbers[rank::ranks]))
                for rank in range(min(ranks, len(numbers)))
            ]
        )

    return score


def _run(jobs: Sequence[Job]) -> Iterator[int]:
    """Starts a process for each job; yields blocks as they come, and stops all when one fails."""
    # Not forked: neither CUDA nor OpenMP's threads survive a fork.
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, SpawnProcess] = {}
    try:
        for job in jobs:
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, writer), daemon=True)
            with on_cores(job.share.cores):
                process.start()
            # The child has its own; while this one were open, its end would not be noticed.
            writer.close()
            processes[reader] = process
        running = {reader: rank for rank, reader in enumerate(processes)}
        while running:
            ready = wait([*running])
            for reader in [one for one in running if one in ready]:
                try:
                    said = reader.recv()
                except EOFError:
                    rank, process = running.pop(reader), processes[reader]
                    process.join()
                    if process.exitcode:
                        raise HermesError(
                            f"reference: process {rank} of {len(jobs)} ended with status {process.exitcode}; "
                            "finished blocks are kept: run `hermes reference` again, with fewer --ranks if "
                            "memory was short"
                        ) from None
                    continue
                if isinstance(said, HermesError):
                    raise said
                yield said
    finally:
        for process in processes.values():
            process.kill()
            process.join()


def _work(job: Job, writer: Connection) -> None:
    """One process's work, which ends with its parent."""
    # Standard output is the parent's, for a person.
    os.dup2(2, 1)
    # Ctrl-C reaches all processes of a terminal; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(job.share.threads)
    try:
        inputs = job.inputs._replace(preferences=load_preferences(job.inputs.pairs))
        gpu = job.rank % max(1, torch.cuda.device_count())
        for block in blocks_alone(inputs, PartialStore.open(job.store), job.blocks, gpu):
            writer.send(block)
    except HermesError as error:
        writer.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
