"""Peak memory of one side of the log-prob comparison, in a process of its own.

    python -m benchmarks.speed.logps_memory SIDE SIZE

SIZE is the JSON of `logps_sides.Size`; prints the JSON of a `Memory`. On a CPU this is resident memory: the
kernel's own high-water mark, set back when the inputs lie ready and every library has been used once.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import torch

from benchmarks.speed.logps_sides import Inputs, Size, forward, make_inputs
from engine.records import Record

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Memory(Record):
    """Bytes beyond the inputs."""

    peak: int
    """The highest in forward and backward, minus the returned gradients."""
    held: int
    """Between the two passes, the graph alive."""
    gradients: int
    """The returned gradients."""


def measure_apart(side: str, size: Size) -> Memory | str:
    """`measure` in a fresh process, or the last line of what went wrong."""
    command = [sys.executable, "-m", __name__, side, msgspec.json.encode(size).decode()]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Memory)


def measure(side: str, size: Size) -> Memory:
    """One forward and backward pass after a tiny one."""
    tiny = msgspec.structs.replace(size, tokens=2 * 256, hidden=32, vocabulary=300)
    forward(side, make_inputs(tiny)).backward()
    inputs = make_inputs(size)
    return _on_gpu(side, inputs) if inputs.hidden_TD.is_cuda else _resident(side, inputs)


def _resident(side: str, inputs: Inputs) -> Memory:
    REFERENCES.write_text("5")
    before = _status("VmRSS")
    between = forward(side, inputs)
    held = _status("VmRSS") - before
    gradients = between.backward()
    returned = sum(one.nbytes for one in gradients)
    return Memory(peak=_status("VmHWM") - before - returned, held=held, gradients=returned)


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _on_gpu(side: str, inputs: Inputs) -> Memory:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    between = forward(side, inputs)
    held = torch.cuda.memory_allocated() - before
    gradients = between.backward()
    torch.cuda.synchronize()
    returned = sum(one.nbytes for one in gradients)
    return Memory(peak=torch.cuda.max_memory_allocated() - before - returned, held=held, gradients=returned)


if __name__ == "__main__":
    print(msgspec.json.encode(measure(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Size))).decode())
