"""A training step with stored reference log-probs against the same step with a live reference model.

`stored` is what `hermes train` does: the reference's log-probs were computed once and are looked up. `live`
keeps a frozen second model and runs it on the same rows, without gradients, in every step, as the released
trainer does. Both train the same random weights on the same pairs through DeepSpeed, in one process and in
turns, and their losses are compared at every step; only the source of the reference log-probs differs.

Expected: of a step's products a forward pass is one part and a backward pass two, so the live step is about
4/3 = 1.33 times as long. What both sides do besides (rows, optimizer, the head's second pass) lowers that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from torch import Tensor

from benchmarks.speed import bench, workload
from benchmarks.speed.bench import Side, Timing
from benchmarks.speed.model_sizes import make
from engine.checkpoints.weights import load_config, load_model
from engine.records import Record
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
from train.reference.reference import ReferenceBasis, open_reference

SIDES = ("stored", "live")
TOLERANCE = 1e-4
"""Two float32 steps of a summed log-prob of some hundreds."""


class StepSettings(Record):
    """What is run."""

    shape: str = "small"
    batch: int = 4
    masks: int = 1
    """Masks of a preference in one step."""
    longest: int = 40
    """Tokens of the longest caption."""
    repeats: int = 7
    warmups: int = 2

    @property
    def config(self) -> TrainConfig:
        """The training run that the steps are from: every step has pairs of its own."""
        return TrainConfig(
            steps=self.warmups + self.repeats,
            batch_size=self.batch,
            warmup=0,
            num_masks=self.masks,
            masks_per_step=self.masks,
        )


class LiveSource(PairSource):
    """Reference log-probs from a frozen model, at every step."""

    frozen: RowLogps

    def reference_of(self, samples: Sequence[Sample], batch: PairRows) -> Tensor:
        """The log-prob of each row under the frozen model."""
        return self.frozen.score(batch.rows)


class StepWork:
    """A checkpoint, pairs and their reference in a folder."""

    def __init__(self, given: StepSettings, folder: Path) -> None:
        self.config = given.config
        self.checkpoint = make(folder, given.shape)
        count = given.batch * (given.warmups + given.repeats)
        made = workload.preferences(load_config(self.checkpoint), count, given.longest, seed=0)
        self.pairs = workload.write_pairs(folder / "pairs.jsonl", made)
        inputs = read_inputs(self.pairs, self.checkpoint, self.config)
        self.store = precompute(inputs, folder / "reference.zarr")

    def source(self, side: str) -> PairSource:
        """Rows and reference log-probs of one side."""
        preferences, layout = load_preferences(self.pairs), Layout.load(self.checkpoint)
        basis = ReferenceBasis.of(self.checkpoint, preferences, self.config)
        given = (self.config, preferences, layout, open_reference(self.store, basis))
        if side == "stored":
            return PairSource(*given)
        live = LiveSource(*given)
        live.frozen = RowLogps(load_model(self.checkpoint))
        return live

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
    """Times both sides in turns."""
    losses: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        work = StepWork(given, Path(scratch))
        with process_group(given.config):
            sides = {side: Side(work.steps(side, losses[side])) for side in SIDES}
            timings = bench.contest(f"a step of {given.shape}", sides, given.repeats, given.warmups)
    apart = max(abs(one - other) for one, other in zip(*losses.values(), strict=True))
    yield timings[0]
    yield msgspec.structs.replace(timings[1], same=apart < TOLERANCE, figures={"losses apart": apart})


if __name__ == "__main__":
    bench.run("train-step", __doc__, StepSettings(), measure)
