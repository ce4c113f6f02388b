"""The training stage: reference log-probs where they are missing, then Pair-DPO, then a picture of it."""

from __future__ import annotations

import time

from engine.checkpoints.weights import fingerprint
from hermes_cli.run.event_log import logged
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import RunSettings
from hermes_cli.stages.launcher import follow_parent, launched, rank, run_ranks
from hermes_cli.stages.processes import plan_processes
from hermes_cli.view import say
from train.command import precompute
from train.config import METRICS, TrainConfig
from train.distributed.deepspeed_config import shares
from train.logging.metrics import TrainStep, read_metrics
from train.logging.run_state import RunState, clear_states
from train.loop import run_training
from train.reference.inputs import TrainingInputs, read_inputs


def inputs_of(folder: RunFolder, settings: RunSettings, number: int) -> TrainingInputs:
    """What a round's reference pass and training read."""
    frozen = folder.checkpoint(settings.reference.round_before(number))
    return read_inputs(folder.pairs(number), folder.checkpoint(number - 1), settings.train, frozen)


def reference_round(
    folder: RunFolder, settings: RunSettings, number: int, inputs: TrainingInputs | None = None
) -> None:
    """Scores a round's pairs under its reference's weights, into Zarr; nothing where that is done.

    `inputs` are the round's, where the caller has read them.

    Raises:
        StaleError: the round's training has begun otherwise, under another reference for one.
    """
    inputs = inputs or inputs_of(folder, settings, number)
    RunState(folder.checkpoint(number), inputs.basis).require_same()
    with logged(folder.events, number, "reference", label=f"reference round {number}") as stage:
        precompute(inputs, folder.reference(number), stage.reached, settings.reference.ranks)
        stage.weights = inputs.basis.reference.weights


def train_round(folder: RunFolder, settings: RunSettings, number: int, ranks: int = 1) -> None:
    """Pair-DPO of a round from the weights before it; a finished round is left alone.

    Starts `ranks` processes on this machine. Where a launcher has started this one as a rank of several, it
    is one of them: then the reference log-probs must be there, and rank 0 alone prints and draws.

    Raises:
        StageOrderError: there are none.
        ConfigError: the batch cannot be shared out among the ranks.
    """
    follow_parent()
    if launched():
        _train(folder, settings, number, inputs_of(folder, settings, number))
    else:
        # Before anything is started.
        shares(settings.train, ranks)
        plan_processes(settings, folder.checkpoint(number - 1), trains=True, ranks=ranks)
        inputs = inputs_of(folder, settings, number)
        reference_round(folder, settings, number, inputs)
        if ranks > 1:
            run_ranks(["train", "--run", str(folder.root), "--round", str(number)], ranks)
        else:
            _train(folder, settings, number, inputs)


def _train(folder: RunFolder, settings: RunSettings, number: int, inputs: TrainingInputs) -> None:
    after, reference = folder.checkpoint(number), folder.reference(number)
    if rank() != 0:
        run_training(inputs, after, reference)
        return
    steps, train = inputs.config.steps, settings.train
    for side, used in (("image", train.uses_images), ("caption", train.uses_captions)):
        if used and not any(getattr(one, f"{side}s") for one in inputs.preferences):
            say(f"there are no {side} pairs: objective {train.objective} learns from the other side alone")
    if steps < train.steps:
        say(f"train.max_epochs {train.max_epochs:g} leaves {steps} of {train.steps} steps for these pairs")
    with logged(folder.events, number, "train", total=steps, label=f"train round {number}") as stage:
        speed = _Speed(train.batch_size)

        def report(step: TrainStep) -> None:
            if speed.first and step.step > 1:
                say(f"going on from step {step.step - 1} of {steps}")
            stage.reached(step.step, steps, speed.after(step))

        run_training(inputs, after, reference, report)
        stage.weights = fingerprint(after)
        _draw(folder, settings.train, number)
    say(f"weights: {after}   curves: {folder.curves(number)}")


def tidy_training(folder: RunFolder, config: TrainConfig, number: int) -> None:
    """Does what a training that was killed after its weights stood has left undone: states and picture."""
    clear_states(folder.checkpoint(number))
    if not folder.curves(number).is_file() and (folder.training(number) / METRICS).is_file():
        _draw(folder, config, number)


def _draw(folder: RunFolder, config: TrainConfig, number: int) -> None:
    from hermes_cli.reporting.training import draw_training

    metrics = read_metrics(folder.training(number) / METRICS)
    title = f"round {number}, objective {config.objective}"
    draw_training(metrics, folder.curves(number), title)


class _Speed:
    """Samples and tokens a second, beside what a step says of itself."""

    def __init__(self, batch: int) -> None:
        self._batch, self._samples, self._tokens, self._begun = batch, 0, 0, time.perf_counter()

    @property
    def first(self) -> bool:
        """Whether no step has ended yet."""
        return not self._samples

    def after(self, step: TrainStep) -> str:
        """What a bar says after one more step."""
        self._samples, self._tokens = self._samples + self._batch, self._tokens + step.tokens
        spent = max(time.perf_counter() - self._begun, 1e-9)
        return (
            f"loss {step.loss:.4f}  margin {step.margin:+.4f}  accuracy {step.accuracy:.2f}  "
            f"{self._samples / spent:.1f} samples/s  {self._tokens / spent:,.0f} tokens/s  "
            f"{step.peak_memory_mib:,.0f} MiB"
        )
