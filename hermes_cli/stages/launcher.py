"""Ranks of one training: started on this machine, or found in a launcher's environment.

The ranks of one machine meet in a file and talk over the loopback interface: no port is opened to others.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from engine.errors import EngineError
from engine.machine.plan import shares
from engine.machine.probe import on_cores, read_machine
from train.config import RENDEZVOUS

PARENT = "HERMES_PARENT"
_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


def rank() -> int:
    """This process's number among all ranks; 0 where there is no launcher."""
    return int(os.environ.get("RANK", "0"))


def launched() -> bool:
    """Whether this process is one of several ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def run_ranks(arguments: Sequence[str], ranks: int) -> None:
    """Runs `hermes` with these arguments once for each rank, and returns when all have ended well.

    Every rank ends with this process, however it ends. Where it trains on a GPU, that is the one of its
    LOCAL_RANK, among those that CUDA_VISIBLE_DEVICES leaves.

    Raises:
        EngineError: a rank failed; the others are ended, and it has said why.
    """
    with tempfile.TemporaryDirectory(prefix="hermes-ranks-") as scratch:
        shared = {
            **os.environ,
            "WORLD_SIZE": str(ranks),
            "LOCAL_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            RENDEZVOUS: str(Path(scratch) / "ranks"),
            PARENT: str(os.getpid()),
        }
        for library in ("GLOO", "NCCL"):
            shared.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        machine = read_machine()
        processes = []
        for number, part in enumerate(shares(machine, ranks)):
            # More threads than cores make every rank slower. On a GPU none needs cores of its own.
            places = {"OMP_NUM_THREADS": str(part.threads), "RANK": str(number), "LOCAL_RANK": str(number)}
            with on_cores(() if machine.gpus else part.cores):
                command = [sys.executable, "-m", "hermes_cli", *arguments]
                processes.append(subprocess.Popen(command, env={**shared, **places}))
        try:
            _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            break
        time.sleep(0.1)
    failed = [number for number, process in enumerate(processes) if process.poll()]
    if failed:
        raise EngineError(f"rank {failed[0]} of {len(processes)} ended early; its message is above")


def follow_parent() -> None:
    """Ends this process when the one that started it as a rank ends, SIGKILL included (Linux)."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)


def launcher_command(arguments: Sequence[str], nodes: int, ranks: int) -> str:
    """The `torchrun` line to type on every one of `nodes` machines for `ranks` processes on each."""
    name = "--no-python hermes " + " ".join(arguments)
    if nodes == 1:
        return f"torchrun --standalone --nproc-per-node {ranks} {name}"
    return (
        f"torchrun --nnodes {nodes} --nproc-per-node {ranks} --node-rank THIS_NODE "
        f"--master-addr FIRST_NODE --master-port 29500 {name}"
    )
