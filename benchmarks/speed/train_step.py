"""A training step with stored reference log-probs against the same step with a live reference model.

`stored` is what `hermes train` does: the reference's log-probs were computed once and are looked up. `live`
keeps a frozen second model and runs it on the same rows, without gradients, in every step, as the released
trainer does. Both train the same random weights on the same pairs through DeepSpeed, in one process and in
turns, and their losses are compared at every step; only the source of the reference log-probs differs.

Expected: of a step's products a forward pass is one part and a backward pass two, so the live step is about
4/3 = 1.33 times as long. What both sides do besides (rows, optimizer, the head's second pass) lowers that.
`by products` is the ratio of the products alone, counted on the step's own rows.

Memory is the peak of a process of its own for each side, and beside it the size of the second model.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import bench, pair_work
from benchmarks.speed.bench import Side, Timing
from benchmarks.speed.model_sizes import make
from engine.checkpoints.weights import load_config, load_model
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


class StepSettings(Record):
    """What is run."""

    shape: str = "small"
    layers: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
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
            dtype=self.dtype,
            seed=self.seed,
        )


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


class StepWork:
    """A checkpoint, pairs and their reference in a folder."""

    def __init__(self, given: StepSettings, folder: Path) -> None:
        self.given, self.config = given, given.config
        self.checkpoint = make(folder, given.shape, layers=given.layers)
        self.pairs = folder / "pairs.jsonl"
        if not self.pairs.is_file():
            count = given.batch * (given.warmups + given.repeats)
            config = load_config(self.checkpoint)
            pair_work.write(self.pairs, pair_work.preferences(config, count, given.longest, given.seed))
        inputs = read_inputs(self.pairs, self.checkpoint, self.config)
        self.store = precompute(inputs, folder / "reference.zarr")

    def source(self, side: str) -> PairSource:
        """Rows and reference log-probs of one side."""
        preferences, layout = load_preferences(self.pairs), Layout.load(self.checkpoint)
        basis = ReferenceBasis.of(self.checkpoint, preferences, self.config)
        stored = open_reference(self.store, basis)
        if side == "stored":
            return PairSource(self.config, preferences, layout, stored)
        frozen = RowLogps(load_model(self.checkpoint, getattr(torch, self.given.dtype)))
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


def measure(given: StepSettings) -> Iterator[Timing]:
    """Times both sides in turns; then each alone, for its memory."""
    losses: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        work = StepWork(given, Path(scratch))
        with process_group(given.config):
            sides = {side: Side(work.steps(side, losses[side])) for side in SIDES}
            timings = bench.contest(f"a step of {given.shape}", sides, given.repeats, given.warmups)
            source = work.source("stored")
            batch = source.rows(source.samples(0))
        apart = max(abs(one - other) for one, other in zip(*losses.values(), strict=True))
        weights = sum(one.numel() for one in load_model(work.checkpoint).parameters())
        bits = torch.finfo(getattr(torch, given.dtype)).bits
        figures = {side: {"peak MiB": peak(given, Path(scratch), side)} for side in SIDES}
        figures["stored"] |= {"rows": len(batch.rows.ids_RT), "parameters": weights}
        figures["live"] |= {
            "by products": products_ratio(work.checkpoint, batch),
            "losses apart": apart,
            "reference model MiB": weights * bits / 8 / 2**20,
        }
    for one in bench.with_figures(timings, figures):
        yield one if one.side == "stored" else msgspec.structs.replace(one, same=apart < TOLERANCE)


def products_ratio(checkpoint: Path, batch: PairRows) -> float:
    """Multiplications of a live step over those of a stored one."""
    model = RowLogps(load_model(checkpoint))
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as step:
            model(*batch.rows).sum().backward()
        with FlopCounterMode(display=False) as forward:
            model.score(batch.rows)
    return float(1 + forward.get_total_flops() / step.get_total_flops())


def peak(given: StepSettings, folder: Path, side: str) -> float:
    """MiB that a fresh process holds at most while it takes a few steps of one side."""
    command = [sys.executable, "-m", "benchmarks.speed.train_step", "--alone", side, str(folder)]
    command.append(msgspec.json.encode(given).decode())
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def alone(side: str, folder: Path, given: StepSettings) -> float:
    """What `peak` measures, in this process. Not `ru_maxrss`, which a child takes over from its parent."""
    work = StepWork(given, folder)
    with process_group(given.config):
        step = work.steps(side, [])
        for number in range(2):
            step(number)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        print(alone(sys.argv[2], Path(sys.argv[3]), msgspec.json.decode(sys.argv[4], type=StepSettings)))
    else:
        bench.run("train-step", __doc__, StepSettings(), measure)
