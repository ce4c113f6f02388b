"""Log-probs of chosen tokens: ours against full logits, Liger and cut-cross-entropy.

All sides run forward and backward to hidden states, weight and bias, on the same inputs, in turns. Peak
memory is that beyond the inputs and the returned gradients, each side in a fresh process. Errors are the
largest against float64 on a smaller problem, over the largest value; `eager` is the plain version with
float32 sums.

Sides whose package is not installed say so; none of them is a dependency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import torch

from benchmarks.speed import bench
from benchmarks.speed.bench import Side, Timing
from benchmarks.speed.logps_sides import (
    SIDES,
    Inputs,
    LogpsProblem,
    SideName,
    forward,
    make_inputs,
)

ERRORS = LogpsProblem(tokens=1024, hidden=256, vocabulary=8192)
ERROR_SIDES: tuple[SideName, ...] = ("ours", "eager", "log_softmax")


class LogpsSettings(LogpsProblem):
    """The problem, and what is measured."""

    sides: tuple[SideName, ...] = ("log_softmax", "liger", "cut_cross_entropy")
    """Beside `ours`."""
    repeats: int = 3


QUICK = LogpsSettings(tokens=1024, hidden=512, vocabulary=8192)


def compare(problem: LogpsProblem, sides: Sequence[SideName], repeats: int, warmups: int = 1) -> list[Timing]:
    """Times the sides that run in turns; the others have the reason."""
    missing = _missing(problem, sides)
    inputs = make_inputs(problem)

    def both_ways(side: SideName) -> Side:
        return Side(lambda _: forward(side, inputs).backward())

    works: dict[str, Side] = {side: both_ways(side) for side in sides if side not in missing}
    work = f"{problem.tokens:,} x {problem.hidden:,} x {problem.vocabulary:,}"
    found = {one.side: one for one in bench.contest(work, works, repeats, warmups)}
    return [found.get(side) or Timing(work=work, side=side, reason=missing[side]) for side in sides]


def _missing(problem: LogpsProblem, sides: Sequence[SideName]) -> dict[str, str]:
    """The sides that do not run here, with the reason; each is tried on a small problem."""
    small = msgspec.structs.replace(problem, tokens=min(512, problem.tokens), hidden=32, vocabulary=300)
    inputs, found = make_inputs(small), dict[str, str]()
    for side in sides:
        try:
            forward(side, inputs).backward()
        except ModuleNotFoundError:
            found[side] = "not installed"
        except Exception as error:  # whatever stops a foreign package on this machine
            first = (str(error).strip().splitlines() or [""])[0]
            found[side] = f"does not run here: {type(error).__name__}: {first}"
    return found


def memory_apart(side: SideName, problem: LogpsProblem) -> float:
    """`peak_memory` in a fresh process.

    Raises:
        RuntimeError: it failed; ends with its last line.
    """
    found = bench.child("benchmarks.speed.logps_sides", side, msgspec.json.encode(problem).decode())
    return float(found.split()[-1])


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


def _results(side: SideName, inputs: Inputs) -> list[torch.Tensor]:
    between = forward(side, inputs)
    return [between.logp_T.detach(), *between.backward()]


def smaller(problem: LogpsProblem, like: LogpsProblem = ERRORS) -> LogpsProblem:
    """A problem whose errors are measured: of the same types, and the other's sizes."""
    return msgspec.structs.replace(like, dtype=problem.dtype, device=problem.device, seed=problem.seed)


def measure(given: LogpsSettings) -> Iterator[Timing]:
    """Seconds of all sides, then the memory of each, then errors."""
    problem = LogpsProblem(**{name: getattr(given, name) for name in LogpsProblem.__struct_fields__})
    sides = [side for side in SIDES if side == "ours" or side in given.sides]
    for side, one in zip(sides, compare(problem, sides, given.repeats), strict=True):
        yield one
        if one.seconds:
            yield Timing(work="memory", side=side, figures={"peak MiB": memory_apart(side, problem)})
    yield from errors(smaller(problem))


if __name__ == "__main__":
    bench.run("logps", __doc__, LogpsSettings(), measure, QUICK)
