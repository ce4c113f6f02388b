"""The training stage: reference log-probs where they are missing, then Pair-DPO, then a picture of it."""

from __future__ import annotations

from hermes_cli.run_folder import RunFolder
from hermes_cli.settings import RunSettings
from hermes_cli.stages import timed
from hermes_cli.view import progress_bar, say
from train.command import precompute, run_training
from train.journal import METRICS, read_metrics
from train.metrics import TrainStep


def reference_round(folder: RunFolder, settings: RunSettings, number: int) -> None:
    """Scores a round's pairs under the weights before it, into Zarr; nothing where that is done."""
    with timed(folder, number, "reference"), progress_bar(f"reference round {number}", 0) as advance:
        done = 0

        def report(now: int, total: int) -> None:
            nonlocal done
            advance(now - done, total=total)
            done = now

        precompute(
            folder.pairs(number),
            folder.checkpoint(number - 1),
            folder.reference(number),
            settings.train,
            report,
            settings.reference.ranks,
        )


def train_round(folder: RunFolder, settings: RunSettings, number: int) -> None:
    """Pair-DPO of a round from the weights before it; a finished round is left alone."""
    reference_round(folder, settings, number)
    before, after = folder.checkpoint(number - 1), folder.checkpoint(number)
    steps: list[TrainStep] = []
    with (
        timed(folder, number, "train"),
        progress_bar(f"train round {number}", settings.train.steps) as advance,
    ):

        def report(step: TrainStep) -> None:
            first = not steps
            steps.append(step)
            note = f"loss {step.loss:.4f}  margin {step.margin:+.4f}  accuracy {step.accuracy:.2f}"
            advance(step.step if first else 1, note=note)

        run_training(folder.pairs(number), before, after, folder.reference(number), settings.train, report)
    picture = folder.round(number) / "training.png"
    from hermes_cli.curves import draw_training

    metrics = read_metrics(folder.training(number) / METRICS)
    draw_training(metrics, picture, f"round {number}, objective {settings.train.objective}")
    say(f"weights: {after}   curves: {picture}")
