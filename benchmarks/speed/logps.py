"""Log-probs of chosen tokens: ours against full logits, bare products, Liger and cut-cross-entropy.

All sides run forward and backward to hidden states, weight and bias, on the same inputs, in turns. Ratios are
a side's median over ours; above 1, ours is ahead. Peak memory is that beyond the inputs and the returned
gradients, each side in a fresh process; `held` is what lives between the two passes. Errors are the largest
against float64 on a smaller problem, over the largest value; `eager` is the plain version with float32 sums.

Sides whose package is not installed say so; none of them is a dependency.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import msgspec
import torch

from benchmarks.speed.logps_memory import Memory, measure_apart
from benchmarks.speed.logps_sides import NOTES, SIDES, Inputs, Size, both_passes, forward, make_inputs
from benchmarks.speed.timing import Machine, in_turns, machine
from engine.files.atomic import write_file
from engine.records import Record

QUICK = Size(tokens=1024, hidden=512, vocabulary=8192)
ERRORS = Size(tokens=1024, hidden=256, vocabulary=8192)
ERROR_SIDES = ("ours", "eager", "log_softmax")
GRADIENTS = ("hidden", "weight", "bias")


class Row(Record):
    """One side."""

    side: str
    what: str
    median: float | None
    """Seconds of forward and backward; None where the side does not run."""
    seconds: tuple[float, ...]
    ratio: float | None
    """Median over that of ours."""
    memory: Memory | None
    reason: str = ""
    """Why something is missing."""


class Errors(Record):
    """Largest errors of one side against float64, each over the largest value."""

    side: str
    log_probs: float
    hidden: float
    weight: float
    bias: float


class Report(Record):
    """A run of this script."""

    machine: Machine
    size: Size
    repeats: int
    rows: tuple[Row, ...]
    errors_size: Size
    errors: tuple[Errors, ...]


def measure(
    size: Size,
    sides: tuple[str, ...],
    repeats: int,
    warmups: int = 1,
    with_memory: bool = True,
    errors_size: Size = ERRORS,
) -> Report:
    """Times the sides that run in turns, then takes their memory one by one."""
    missing = _missing(size, sides)
    inputs = make_inputs(size)
    works = {side: both_passes(side, inputs) for side in sides if side not in missing}
    seconds = in_turns(works, repeats, warmups)
    del works, inputs
    rows = []
    for side in sides:
        memory: Memory | str = ""
        if with_memory and side != "products" and side not in missing:
            memory = measure_apart(side, size)
        found = tuple(seconds.get(side, ()))
        median = statistics.median(found) if found else None
        rows.append(
            Row(
                side=side,
                what=NOTES[side],
                median=median,
                seconds=found,
                ratio=median / statistics.median(seconds["ours"]) if median else None,
                memory=memory if isinstance(memory, Memory) else None,
                reason=missing.get(side, memory if isinstance(memory, str) else ""),
            )
        )
    smaller = msgspec.structs.replace(errors_size, dtype=size.dtype, device=size.device, seed=size.seed)
    return Report(
        machine=machine(),
        size=size,
        repeats=repeats,
        rows=tuple(rows),
        errors_size=smaller,
        errors=errors(smaller),
    )


def _missing(size: Size, sides: tuple[str, ...]) -> dict[str, str]:
    """The sides that do not run here, with the reason; each is tried on a small problem."""
    found = {}
    small = make_inputs(
        msgspec.structs.replace(size, tokens=min(512, size.tokens), hidden=32, vocabulary=300)
    )
    for side in sides:
        try:
            both_passes(side, small)(0)
        except ImportError as error:
            found[side] = "not installed" if isinstance(error, ModuleNotFoundError) else _reason(error)
        except Exception as error:  # whatever stops a foreign package on this machine
            found[side] = _reason(error)
    return found


def _reason(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"does not run here: {type(error).__name__}: {first}"


def errors(size: Size) -> tuple[Errors, ...]:
    """Log-probs and gradients of ours and of the plain versions against float64."""
    inputs = make_inputs(size)
    hidden, weight, bias = (one.detach().double().requires_grad_() for one in inputs.leaves)
    wide = Inputs(hidden, weight, bias, inputs.targets_T, inputs.upstream_T.double())
    exact = _results("eager", wide)
    rows = []
    for side in ERROR_SIDES:
        apart = [
            float((found.double() - wanted).abs().max() / wanted.abs().max())
            for found, wanted in zip(_results(side, inputs), exact, strict=True)
        ]
        rows.append(Errors(side, *apart))
    return tuple(rows)


def _results(side: str, inputs: Inputs) -> list[torch.Tensor]:
    between = forward(side, inputs)
    return [between.value.detach(), *between.backward()]


def table(report: Report) -> str:
    """One line a side, then one line a side of the errors."""
    lines = [f"{'side':20} {'seconds':>9} {'spread':>17} {'ratio':>6} {'peak MiB':>9} {'held MiB':>9}"]
    for row in report.rows:
        if row.median is None:
            lines.append(f"{row.side:20} {row.reason}")
            continue
        spread = f"{min(row.seconds):.2f} to {max(row.seconds):.2f}"
        memory = "-", "-"
        if row.memory is not None:
            memory = f"{row.memory.peak / 2**20:.0f}", f"{row.memory.held / 2**20:.0f}"
        lines.append(
            f"{row.side:20} {row.median:9.3f} {spread:>17} {row.ratio:6.2f} {memory[0]:>9} {memory[1]:>9} "
            f"{row.reason}".rstrip()
        )
    lines.append(f"{'error of':20} {'log-probs':>9} " + " ".join(f"{name:>9}" for name in GRADIENTS))
    for one in report.errors:
        values = (one.log_probs, one.hidden, one.weight, one.bias)
        lines.append(f"{one.side:20} " + " ".join(f"{value:9.1e}" for value in values))
    return "\n".join(lines)


def options() -> argparse.ArgumentParser:
    """Every field of the size, under its own name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("tokens", "hidden", "vocabulary", "seed"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="others than ours, which is always there")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmups", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a small problem, for a first look")
    parser.add_argument("--to", type=Path, default=Path("runs/bench/logps.json"))
    return parser


def main() -> None:
    """Prints the table and writes the JSON."""
    given = options().parse_args()
    usual = QUICK if given.quick else Size()
    names = {field.name for field in msgspec.structs.fields(Size)}
    chosen = {name: value for name, value in vars(given).items() if name in names and value is not None}
    size = msgspec.structs.replace(usual, **chosen)
    sides = tuple(side for side in SIDES if side == "ours" or side in (given.sides or SIDES))
    report = measure(size, sides, given.repeats, given.warmups, not given.no_memory)
    print(table(report), flush=True)
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
