"""A training step with stored reference log-probs against the same step with a live reference model.

`stored` is what `hermes train` does: the reference's log-probs were computed once and are looked up. `live`
keeps a frozen second model and runs it on the same rows, without gradients, in every step, as the released
trainer does. Both train the same random weights on the same pairs through DeepSpeed, in one process and in
turns, and their losses are compared at every step; only the source of the reference log-probs differs.

Expected: of a step's products a forward pass is one part and a backward pass two, so the live step is about
4/3 = 1.33 times as long. What both sides do besides (rows, optimizer, the head's second pass) lowers that.
`counted` is the ratio of the products alone, counted on the step's own rows.

Memory is the peak of a process of its own for each side, and beside it the size of the second model.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import pair_work
from benchmarks.speed.shapes import SHAPES, make
from benchmarks.speed.timing import Machine, in_turns, machine
from engine.checkpoints.weights import load_config, load_model
from engine.files.atomic import write_file
from engine.records import Preference, Record
from train.command import precompute
from train.config import TrainConfig
from train.data.batch import Layout, PairRows
from train.data.preferences import load_preferences
from train.data.schedule import Sample
from train.distributed.policy import Policy, process_group
from train.logps.row_logps import RowLogps
from train.losses.loss import batch_loss
from train.pair_source import PairSource
from train.reference.inputs import read_inputs
from train.reference.reference import Reference, ReferenceBasis, open_reference

SIDES = ("stored", "live")
TOLERANCE = 1e-4
"""Two float32 steps of a summed log-prob of some hundreds."""


class Plan(Record):
    """What is run."""

    shape: str = "small"
    layers: int = 0
    dtype: str = "float32"
    batch: int = 4
    masks: int = 1
    """Masks of a preference in one step."""
    longest: int = 40
    """Tokens of the longest caption."""
    repeats: int = 7
    warmups: int = 2
    seed: int = 0

    @property
    def config(self) -> TrainConfig:
        """The training run that the steps are from: every step has pairs of its own."""
        return TrainConfig(
            steps=self.warmups + self.repeats,
            batch_size=self.batch,
            warmup=0,
            num_masks=self.masks,
            masks_per_step=self.masks,
            dtype=self.dtype,  # type: ignore[arg-type]
            seed=self.seed,
        )


class Memory(Record):
    """What one side's process held at most."""

    side: str
    peak_mib: float


class Report(Record):
    """A run of this script."""

    machine: Machine
    plan: Plan
    rows: int
    """Sequences of a step."""
    parameters: int
    stored_s: tuple[float, ...]
    live_s: tuple[float, ...]
    ratio: float
    """Of the medians."""
    counted: float
    """Ratio of the two steps' multiplications, what does not multiply matrices left out."""
    spread: tuple[float, float]
    """Smallest and largest ratio of a round."""
    largest_difference: float
    """Of the two sides' losses at a step."""
    same_losses: bool
    memory: tuple[Memory, ...]
    model_mib: float
    """Weights of the reference model."""


class LiveSource(PairSource):
    """Reference log-probs from a frozen model, at every step."""

    def __init__(
        self,
        config: TrainConfig,
        preferences: Sequence[Preference],
        layout: Layout,
        reference: Reference,
        frozen: RowLogps,
    ) -> None:
        super().__init__(config, preferences, layout, reference)
        self._frozen = frozen

    def reference_of(self, samples: Sequence[Sample], batch: PairRows) -> Tensor:
        """The log-prob of each row under the frozen model."""
        return self._frozen.score(batch.rows)


class Work:
    """A checkpoint, pairs and their reference in a folder."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.config = plan, plan.config
        self.checkpoint = make(folder, plan.shape, layers=plan.layers)
        self.pairs = folder / "pairs.jsonl"
        if not self.pairs.is_file():
            count = plan.batch * (plan.warmups + plan.repeats)
            config = load_config(self.checkpoint)
            pair_work.write(self.pairs, pair_work.preferences(config, count, plan.longest, plan.seed))
        inputs = read_inputs(self.pairs, self.checkpoint, self.config)
        self.store = precompute(inputs, folder / "reference.zarr")

    def source(self, side: str) -> PairSource:
        """Rows and reference log-probs of one side."""
        preferences, layout = load_preferences(self.pairs), Layout.load(self.checkpoint)
        basis = ReferenceBasis.of(self.checkpoint, preferences, self.config)
        stored = open_reference(self.store, basis)
        if side == "stored":
            return PairSource(self.config, preferences, layout, stored)
        frozen = RowLogps(load_model(self.checkpoint, getattr(torch, self.plan.dtype)))
        return LiveSource(self.config, preferences, layout, stored, frozen)

    def steps(self, side: str, losses: list[float]) -> Callable[[int], None]:
        """A function that takes step n of a side; it appends the loss."""
        policy, source, config = Policy(self.config, self.checkpoint), self.source(side), self.config

        def step(number: int) -> None:
            samples = source.samples(number)
            batch = source.rows(samples)
            logps = source.pair_logps(samples, batch, policy(batch.rows).cpu())
            loss = batch_loss(*logps, config, number)
            losses.append(float(loss.total.detach()))
            policy.step([loss.total], config.learning_rate_at(number))

        return step


def measure(plan: Plan, folder: Path) -> Report:
    """Times both sides in turns; then each alone, for its memory."""
    work = Work(plan, folder)
    losses: dict[str, list[float]] = {side: [] for side in SIDES}
    with process_group(plan.config):
        steps = {side: work.steps(side, losses[side]) for side in SIDES}
        seconds = in_turns(steps, plan.repeats, plan.warmups)
        batch = (source := work.source("stored")).rows(source.samples(0))
    ratios = [live / stored for stored, live in zip(seconds["stored"], seconds["live"], strict=True)]
    apart = max(abs(one - other) for one, other in zip(losses["stored"], losses["live"], strict=True))
    weights = [p.numel() for p in load_model(work.checkpoint).parameters()]
    return Report(
        machine=machine(),
        plan=plan,
        rows=len(batch.rows.ids_RT),
        parameters=sum(weights),
        stored_s=tuple(seconds["stored"]),
        live_s=tuple(seconds["live"]),
        ratio=statistics.median(seconds["live"]) / statistics.median(seconds["stored"]),
        spread=(min(ratios), max(ratios)),
        counted=counted(work.checkpoint, batch),
        largest_difference=apart,
        same_losses=apart < TOLERANCE,
        memory=tuple(Memory(side=side, peak_mib=peak(plan, folder, side)) for side in SIDES),
        model_mib=sum(weights) * torch.finfo(getattr(torch, plan.dtype)).bits / 8 / 2**20,
    )


def counted(checkpoint: Path, batch: PairRows) -> float:
    """Multiplications of a live step over those of a stored one."""
    model = RowLogps(load_model(checkpoint))
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as step:
            model(*batch.rows).sum().backward()
        with FlopCounterMode(display=False) as forward:
            model.score(batch.rows)
    return 1 + forward.get_total_flops() / step.get_total_flops()


def peak(plan: Plan, folder: Path, side: str) -> float:
    """MiB that a fresh process holds at most while it takes a few steps of one side."""
    given = [
        sys.executable,
        "-m",
        "benchmarks.speed.train_step",
        "--alone",
        side,
        "--checkpoints",
        str(folder),
    ]
    given += ["--plan", msgspec.json.encode(plan).decode()]
    return float(subprocess.run(given, check=True, capture_output=True, text=True).stdout.split()[-1])


def alone(plan: Plan, folder: Path, side: str) -> float:
    """What `peak` measures, in this process."""
    work = Work(plan, folder)
    with process_group(plan.config):
        step = work.steps(side, [])
        for number in range(2):
            step(number)
    return high_water_mib()


def high_water_mib() -> float:
    """The most that this process has held. Not `ru_maxrss`, which a child takes over from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def table(report: Report) -> str:
    """What came of it, a line a side."""
    lines = [f"{report.plan.shape}, {report.parameters / 1e6:.1f}M parameters, {report.rows} rows a step"]
    for memory, seconds in zip(report.memory, (report.stored_s, report.live_s), strict=True):
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        lines.append(
            f"{memory.side:7} {middle:8.3f} s a step ({low:.3f} to {high:.3f})  "
            f"peak {memory.peak_mib:8.0f} MiB"
        )
    low, high = report.spread
    lines.append(
        f"ratio {report.ratio:.2f}x ({low:.2f} to {high:.2f}), by products {report.counted:.2f}x  "
        f"reference model {report.model_mib:.0f} MiB  "
        f"same losses: {'yes' if report.same_losses else 'NO'} (to {report.largest_difference:.1e})"
    )
    return "\n".join(lines)


def options() -> argparse.ArgumentParser:
    """Every field of the plan under its own name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default=Plan().shape)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=Plan().dtype)
    for name in ("layers", "batch", "masks", "longest", "repeats", "warmups", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan(), name))
    parser.add_argument("--checkpoints", type=Path, help="keeps checkpoint, pairs, reference here")
    parser.add_argument("--alone", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, default=Path("runs/bench/train-step.json"))
    return parser


def main() -> None:
    """Prints the table and writes the JSON."""
    given = options().parse_args()
    if given.alone:
        print(alone(msgspec.json.decode(given.plan, type=Plan), given.checkpoints, given.alone))
        return
    names = (field.name for field in msgspec.structs.fields(Plan))
    plan = Plan(**{name: getattr(given, name) for name in names})
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(plan, given.checkpoints or Path(scratch))
    print(table(report))
    write_file(given.to, msgspec.json.format(msgspec.json.encode(report)))
    print(f"written to {given.to}")


if __name__ == "__main__":
    main()
