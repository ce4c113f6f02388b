"""Log-probs of chosen tokens: ours against full logits, bare products, Liger and cut-cross-entropy.

All sides run forward and backward to hidden states, weight and bias, on the same inputs, in turns. Peak
memory is that beyond the inputs and the returned gradients, each side in a fresh process; `held` is what
lives between the two passes. Errors are the largest against float64 on a smaller problem, over the largest
value; `eager` is the plain version with float32 sums.

Sides whose package is not installed say so; none of them is a dependency.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import msgspec
import torch

from benchmarks.speed import bench
from benchmarks.speed.bench import Side, Timing
from benchmarks.speed.logps_sides import SIDES, Inputs, LogpsProblem, both_passes, forward, make_inputs
from engine.errors import ConfigError

ERRORS = LogpsProblem(tokens=1024, hidden=256, vocabulary=8192)
ERROR_SIDES = ("ours", "eager", "log_softmax")


class LogpsSettings(LogpsProblem):
    """The problem, and what is measured."""

    sides: tuple[str, ...] = SIDES[:-2]
    """`ours` is always there."""
    repeats: int = 3
    warmups: int = 1
    memory: int = 1
    """0 leaves the memory out."""

    def __post_init__(self) -> None:
        if unknown := sorted({*self.sides} - {*SIDES}):
            raise ConfigError(f"--sides {unknown[0]}: there is no such side, only {', '.join(SIDES)}")


QUICK = LogpsSettings(tokens=1024, hidden=512, vocabulary=8192)


def compare(problem: LogpsProblem, sides: Sequence[str], repeats: int, warmups: int = 1) -> list[Timing]:
    """Times the sides that run in turns; the others have the reason."""
    missing = _missing(problem, sides)
    inputs = make_inputs(problem)
    works = {side: Side(both_passes(side, inputs)) for side in sides if side not in missing}
    work = f"{problem.tokens:,} x {problem.hidden:,} x {problem.vocabulary:,}"
    found = {one.side: one for one in bench.contest(work, works, repeats, warmups)}
    return [found.get(side) or Timing(work=work, side=side, reason=missing[side]) for side in sides]


def _missing(problem: LogpsProblem, sides: Sequence[str]) -> dict[str, str]:
    """The sides that do not run here, with the reason; each is tried on a small problem."""
    small = msgspec.structs.replace(problem, tokens=min(512, problem.tokens), hidden=32, vocabulary=300)
    inputs, found = make_inputs(small), {}
    for side in sides:
        try:
            both_passes(side, inputs)(0)
        except ModuleNotFoundError:
            found[side] = "not installed"
        except Exception as error:  # whatever stops a foreign package on this machine
            first = (str(error).strip().splitlines() or [""])[0]
            found[side] = f"does not run here: {type(error).__name__}: {first}"
    return found


def memory_apart(side: str, problem: LogpsProblem) -> dict[str, float]:
    """`peak_memory` in a fresh process.

    Raises:
        RuntimeError: it failed; ends with its last line.
    """
    script = (
        "import sys, msgspec; from benchmarks.speed.logps_sides import LogpsProblem, peak_memory; "
        "found = peak_memory(sys.argv[1], msgspec.json.decode(sys.argv[2], type=LogpsProblem)); "
        "print(msgspec.json.encode(found).decode())"
    )
    command = [sys.executable, "-c", script, side, msgspec.json.encode(problem).decode()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, float])


def errors(problem: LogpsProblem) -> list[Timing]:
    """Log-probs and gradients of ours and of the plain versions against float64."""
    inputs = make_inputs(problem)
    hidden, weight, bias = (one.detach().double().requires_grad_() for one in inputs.leaves)
    exact = _results("eager", Inputs(hidden, weight, bias, inputs.targets_T, inputs.upstream_T.double()))
    rows = []
    for side in ERROR_SIDES:
        pairs = zip(_results(side, inputs), exact, strict=True)
        apart = [float((found.double() - wanted).abs().max() / wanted.abs().max()) for found, wanted in pairs]
        figures = dict(zip(("log-probs", "hidden", "weight", "bias"), apart, strict=True))
        rows.append(Timing(work="error against float64", side=side, figures=figures))
    return rows


def _results(side: str, inputs: Inputs) -> list[torch.Tensor]:
    between = forward(side, inputs)
    return [between.value.detach(), *between.backward()]


def smaller(problem: LogpsProblem, like: LogpsProblem = ERRORS) -> LogpsProblem:
    """A problem whose errors are measured: of the same types, and the other's sizes."""
    return msgspec.structs.replace(like, dtype=problem.dtype, device=problem.device, seed=problem.seed)


def measure(given: LogpsSettings) -> Iterator[Timing]:
    """Seconds of all sides, then the memory of each, then errors."""
    problem = LogpsProblem(**{name: getattr(given, name) for name in LogpsProblem.__struct_fields__})
    sides = [side for side in SIDES if side == "ours" or side in given.sides]
    for one in compare(problem, sides, given.repeats, given.warmups):
        yield one
        if given.memory and one.seconds and one.side != "products":
            try:
                figures = memory_apart(one.side, problem)
            except RuntimeError as error:
                yield Timing(work="memory", side=one.side, reason=str(error))
            else:
                yield Timing(work="memory", side=one.side, figures=figures)
    yield from errors(smaller(problem))


if __name__ == "__main__":
    bench.run("logps", __doc__, LogpsSettings(), measure, QUICK)
