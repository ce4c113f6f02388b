"""The Pair-DPO loop. Everything it leans on lives elsewhere; the method is `batch_loss`.

Legend: R rows, P preferences of this rank, K masks of a preference.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from engine.checkpoints.weights import fingerprint, load_config
from engine.errors import ConfigError
from engine.records import Preference
from train.config import TrainConfig
from train.data.batch import IGNORE, Layout, PairRows, pair_rows
from train.data.image_mask import ImageDraw, draw_from_seed, real_seed
from train.data.preferences import usable
from train.data.schedule import Visit, visits
from train.distributed.deepspeed_config import shares
from train.distributed.policy import Policy, open_policy
from train.logging.metrics import TrainStep, tally, train_step
from train.logging.run_state import Journal, RunBasis
from train.logging.trackers import open_trackers
from train.losses.loss import Real, Side, batch_loss
from train.reference.reference import Reference, ReferenceBasis, open_reference


def train(
    config: TrainConfig,
    preferences: Sequence[Preference],
    checkpoint_in: Path,
    out: Path,
    reference: Path,
    report: Callable[[TrainStep], None],
    features: Path | None = None,
    frozen: Path | None = None,
) -> Path:
    """Trains from `checkpoint_in` into `out`, a new checkpoint folder, and returns it.

    `reference` is the finished store of `compute_reference` for the same preferences and config under the
    checkpoint `frozen`, by default the one that training starts from; `features` is the folder of the real
    images' CLIP features, where understanding needs them. The run's metrics and resumable state live in
    `<out>.training`. A killed run goes on from its latest state and ends with the weights of an uninterrupted
    one; a complete run is not repeated. Under a launcher every rank calls this with the same arguments, and
    `report` is called on rank 0 alone.

    Raises:
        StaleError: `reference` or `<out>.training` belongs to other weights, preferences or settings.
        StageOrderError: there is no reference store.
        DataError: the preferences do not fit the checkpoint, or none suits the objective.
        BusyError: another process trains into `out`.
        CheckpointError, ConfigError, EngineError: see `open_policy` and `train_one`.
    """
    basis = run_basis(config, preferences, checkpoint_in, frozen)
    config = basis.config
    journal = Journal(out, basis)
    with journal.held():
        if journal.is_complete():
            journal.close()
            return out
        layout = Layout.load(checkpoint_in, features)
        source = PairSource(config, preferences, layout, open_reference(reference, basis.reference))
        with open_policy(config, checkpoint_in) as policy:
            first = journal.resume(policy)
            with open_trackers(config, journal.folder, first, policy.rank) as trackers:
                for step in range(first, config.steps):
                    record = train_one(source, policy, config, step)
                    if policy.rank == 0:
                        journal.append(record)
                        trackers.log(record)
                        report(record)
                    if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
                        trackers.flush()
                        journal.keep_best(policy)
                        if config.saves_states:
                            journal.save(policy, step + 1)
            journal.keep_best(policy)
            policy.interpolate()
            journal.publish(policy)
        journal.close()
    return out


def run_basis(
    config: TrainConfig, preferences: Sequence[Preference], checkpoint_in: Path, frozen: Path | None
) -> RunBasis:
    """What decides the weights of such a run, its learning rate scaled, its device found and its steps
    bounded; `frozen` as in `train`."""
    config = config.for_width(load_config(checkpoint_in).hidden_size)
    # Not auto: a run goes on where it was begun, for another device rounds otherwise.
    config = msgspec.structs.replace(config, device=config.device_type)
    if config.most_visits:
        config = config.for_preferences(len(usable(preferences, config)))
    if frozen is None or frozen == checkpoint_in:
        return RunBasis(config=config, reference=ReferenceBasis.of(checkpoint_in, preferences, config))
    reference = ReferenceBasis.of(frozen, preferences, config)
    return RunBasis(config=config, reference=reference, start=fingerprint(checkpoint_in))


def train_one(source: PairSource, policy: Policy, config: TrainConfig, step: int) -> TrainStep:
    """One optimizer step over a batch of preferences, and what it was. All ranks call it.

    Raises:
        ConfigError: the loss or its gradient is no longer a number.
    """
    started = time.perf_counter()
    chosen = source.visits(step)
    mine = chosen[policy.rank :: policy.world]
    micro, _ = shares(config, policy.world)
    tallies: list[Tensor] = []

    def losses() -> Iterator[Tensor]:
        for start in range(0, len(mine), micro):
            part = mine[start : start + micro]
            batch = source.rows(part)
            logp_R = policy(batch.rows).cpu()
            captions, images = source.sides(part, batch, logp_R)
            real, homologous_P = real_pairs(batch, logp_R), batch.has(batch.homologous)
            loss = batch_loss(captions, images, config, step, *real, homologous_P)
            tokens = torch.tensor([source.tokens(batch)], dtype=torch.float64)
            tallies.append(torch.cat((tokens, tally(loss, captions, images))))
            yield loss.total.to(policy.device)

    rate = config.learning_rate_at(step)
    grad_norm = policy.step(losses(), rate)
    sums = policy.total(torch.stack(tallies).sum(0))
    record = train_step(
        sums[1:],
        step=step + 1,
        grad_norm=grad_norm,
        learning_rate=rate,
        epoch=chosen[0].epoch,
        skipped=source.skipped,
        seconds=time.perf_counter() - started,
        tokens=int(sums[0]),
        peak_memory_mib=policy.peak_memory_mib,
    )
    if not (math.isfinite(record.loss) and math.isfinite(grad_norm)):
        raise ConfigError(
            f"train: at step {step + 1} the loss is {record.loss} and the gradient's norm {grad_norm}; "
            "lower learning_rate or beta, or lengthen warmup"
        )
    return record


def real_pairs(batch: PairRows, logp_R: Tensor) -> tuple[Real | None, Real | None]:
    """(real captions, real images) of a batch, None where no anchor wants them."""
    labels_R = (batch.rows.labels_RT != IGNORE).sum(1).to(logp_R.dtype)
    sums, labels = batch.real(logp_R), batch.real(labels_R)
    captions, images = (
        None if logp_P is None or tokens_P is None else Real(logp_P, tokens_P)
        for logp_P, tokens_P in zip(sums, labels, strict=True)
    )
    return captions, images


class PairSource:
    """Steps' rows and reference log-probs, from preferences and their store."""

    def __init__(
        self,
        config: TrainConfig,
        preferences: Sequence[Preference],
        layout: Layout,
        reference: Reference,
    ) -> None:
        layout.check(preferences, real=config.real_caption_anchor + config.real_image_anchor > 0)
        self._config = config
        self._preferences = preferences
        self._layout = layout
        self._reference = reference
        self._usable = usable(preferences, config)
        self.skipped = len(preferences) - len(self._usable)

    def visits(self, step: int) -> list[Visit]:
        """All ranks' visits of a 0-based step."""
        return visits(
            step,
            count=len(self._usable),
            batch=self._config.batch,
            mask_draws=self._config.mask_draws,
            masks_per_step=self._config.masks_per_step,
            seed=self._config.seed,
            pairs_every=self._config.pairs_every,
        )

    def rows(self, chosen: Sequence[Visit]) -> PairRows:
        """The rows of some visits: pairs under the very masks and texts that the reference saw.

        Where a preference's real image has no codes, there is nothing to anchor: every visit has its pairs.
        """
        preferences = [self._preferences[self._usable[visit.place]] for visit in chosen]
        shown = self._config.real_image_anchor > 0
        return pair_rows(
            self._layout,
            preferences,
            [self._paired_draws(visit) for visit in chosen],
            captions=self._config.uses_captions,
            images=self._config.uses_images,
            real_captions=self._config.real_caption_anchor > 0,
            real_images=list(map(self._real_draws, preferences, chosen)) if shown else (),
        )

    def _paired_draws(self, visit: Visit) -> list[ImageDraw]:
        tokens, index = self._layout.config.num_image_tokens, self._usable[visit.place]
        bare = not self._preferences[index].image_codes
        draws = visit.draws if visit.paired or bare else ()
        return [self._reference.image_draw(index, draw, tokens, self._config) for draw in draws]

    def _real_draws(self, preference: Preference, visit: Visit) -> list[ImageDraw]:
        config, tokens = self._config, self._layout.config.num_image_tokens
        first = visit.epoch * config.masks_per_step
        seeds = [real_seed(preference.id, first + i, config.seed) for i in range(config.masks_per_step)]
        return [draw_from_seed(seed, tokens, config.text_dropout) for seed in seeds]

    def tokens(self, batch: PairRows) -> int:
        """Number of tokens in a batch, padding left out."""
        return int((batch.rows.ids_RT != self._layout.words.pad).sum())

    def sides(self, chosen: Sequence[Visit], batch: PairRows, logp_R: Tensor) -> tuple[Side, Side]:
        """(captions, images) of some visits, from their rows' log-probs under the policy."""
        reference_R = self.reference_of(chosen, batch)
        labels_R = (batch.rows.labels_RT != IGNORE).sum(1).to(logp_R.dtype)
        if self._config.image_normalise:
            size_R = torch.where(batch.paints, labels_R, 1.0)
            logp_R, reference_R, labels_R = logp_R / size_R, reference_R / size_R, labels_R / size_R
        policy, reference, labels = (batch.split(values) for values in (logp_R, reference_R, labels_R))
        captions = Side(
            policy_win_P=policy[0],
            policy_lose_P=policy[1],
            reference_win_P=reference[0],
            reference_lose_P=reference[1],
            tokens_win_P=labels[0],
            has_P=batch.has(batch.captions),
        )
        images = Side(
            policy_win_P=policy[2],
            policy_lose_P=policy[3],
            reference_win_P=reference[2],
            reference_lose_P=reference[3],
            tokens_win_P=labels[2],
            has_P=batch.has(batch.images),
        )
        return captions, images

    def reference_of(self, chosen: Sequence[Visit], batch: PairRows) -> Tensor:
        """The stored log-prob of each paired row, 0 for real ones; nothing is read from disk."""
        stored = self._reference
        pairs = np.array([self._usable[visit.place] for visit in chosen])
        draws = np.array([visit.draws for visit in chosen])[batch.images]
        captions, images = pairs[batch.captions], pairs[batch.images, None]
        parts = [stored.caption_win[captions], stored.caption_lose[captions]]
        parts += [values[images, draws].ravel() for values in (stored.image_win, stored.image_lose)]
        parts.append(np.zeros(len(batch.rows.ids_RT) - batch.paired, np.float32))
        return torch.from_numpy(np.concatenate(parts))
