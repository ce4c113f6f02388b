"""The Pair-DPO loop. Everything it leans on lives elsewhere; the method is `batch_loss`.

Legend: R rows, P preferences of one pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from engine.errors import ConfigError
from train.config import TrainConfig
from train.data.batch import Layout
from train.distributed.deepspeed_config import shares
from train.distributed.policy import Policy, open_policy
from train.logging.metrics import TrainStep, over_ranks, pass_sums, train_step
from train.logging.run_state import RunState, clear_states
from train.logging.trackers import open_trackers
from train.losses.loss import batch_loss
from train.pair_source import PairSource
from train.reference.inputs import TrainingInputs
from train.reference.reference import open_reference


def run_training(
    inputs: TrainingInputs,
    out: Path,
    reference: Path,
    report: Callable[[TrainStep], None] = lambda step: None,
) -> Path:
    """Trains by Pair-DPO into `out`, a new checkpoint folder, and returns it.

    `reference` is the finished store of `compute_reference` for the same inputs. The run's metrics and
    resumable state live in `<out>.training`. A killed run goes on from its latest state and ends with the
    weights of an uninterrupted one; a complete run is not repeated. Under a launcher every rank calls this
    with the same arguments, and `report` is called on rank 0 alone.

    Raises:
        StaleError: `reference` or `<out>.training` belongs to other weights, preferences or settings.
        StageOrderError: there is no reference store.
        DataError: the preferences do not fit the checkpoint, or none suits the objective.
        BusyError: another process trains into `out`.
        CheckpointError, ConfigError, EngineError: see `open_policy` and `train_one`.
    """
    config = inputs.config
    run_state = RunState(out, inputs.basis)
    with run_state.held():
        if run_state.is_complete():
            clear_states(out)
            return out
        layout = Layout.load(inputs.checkpoint, inputs.features)
        stored = open_reference(reference, inputs.basis.reference)
        source = PairSource(config, inputs.preferences, layout, stored)
        with open_policy(config, inputs.checkpoint) as policy:
            first = run_state.resume(policy)
            with open_trackers(config, run_state.folder, first, policy.rank) as trackers:
                for step in range(first, config.steps):
                    record = train_one(source, policy, config, step)
                    if policy.rank == 0:
                        run_state.append(record)
                        for tracker in trackers:
                            tracker.log(record)
                        report(record)
                    if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
                        for tracker in trackers:
                            tracker.flush()
                        run_state.save(policy, step + 1)
            policy.average_weights()
            run_state.publish(policy)
        clear_states(out)
    return out


def train_one(source: PairSource, policy: Policy, config: TrainConfig, step: int) -> TrainStep:
    """One optimizer step over a batch of preferences, and what it was. All ranks call it.

    Raises:
        ConfigError: the loss or its gradient is no longer a number.
    """
    started = time.perf_counter()
    samples = source.samples(step)
    mine = samples[policy.rank :: policy.world]
    micro, _ = shares(config, policy.world)
    sums: list[dict[str, Tensor]] = []

    def losses() -> Iterator[Tensor]:
        for start in range(0, len(mine), micro):
            part = mine[start : start + micro]
            batch = source.rows(part)
            logp_R = policy(batch.rows).cpu()
            logps = source.pair_logps(part, batch, logp_R)
            homologous_P = batch.has(batch.homologous)
            loss = batch_loss(*logps, config, step, *batch.real_losses(logp_R), homologous_P)
            sums.append(pass_sums(loss, *logps, source.tokens(batch)))
            yield loss.total.to(policy.device)

    rate = config.learning_rate_at(step)
    grad_norm = policy.step(losses(), rate)
    record = train_step(
        over_ranks(sums, policy.total),
        step=step + 1,
        grad_norm=grad_norm,
        learning_rate=rate,
        epoch=samples[0].epoch,
        skipped=source.skipped,
        seconds=time.perf_counter() - started,
        peak_memory_mib=policy.peak_memory_mib,
    )
    if not (math.isfinite(record.loss) and math.isfinite(grad_norm)):
        raise ConfigError(
            f"train: at step {step + 1} the loss is {record.loss} and the gradient's norm {grad_norm}; "
            "lower learning_rate or beta, or lengthen warmup"
        )
    return record
