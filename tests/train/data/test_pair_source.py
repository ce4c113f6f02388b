"""From preferences and their store to a step's loss: what the loop calls, on a real model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from engine.checkpoints.weights import load_model
from engine.records import Preference
from train.command import precompute
from train.config import TrainConfig
from train.data.batch import IGNORE, Layout
from train.logging.metrics import over_ranks, pass_sums, train_step
from train.logps.row_logps import RowLogps
from train.losses.loss import PairLogps, batch_loss
from train.pair_source import PairSource
from train.reference.inputs import read_inputs
from train.reference.reference import Reference, ReferenceBasis, open_reference

CONFIG = TrainConfig(batch_size=5, num_masks=1)
SIDES = ("caption_win", "caption_lose", "image_win", "image_lose")


def a_step(
    config: TrainConfig, preferences: list[Preference], checkpoint: Path, reference: Reference, step: int = 0
) -> tuple[RowLogps, tuple[PairLogps, PairLogps], torch.Tensor]:
    """The model after a step's backward pass, the log-probs of its pairs, and the loss."""
    source = PairSource(config, preferences, Layout.load(checkpoint), reference)
    model = RowLogps(load_model(checkpoint))
    samples = source.samples(step)
    batch = source.rows(samples)
    logps = source.pair_logps(samples, batch, model(*batch.rows))
    loss = batch_loss(*logps, config, step)
    loss.total.backward()
    return model, logps, loss.total.detach()


def gradient_norm(model: RowLogps) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))


def live_reference(config: TrainConfig, preferences: list[Preference], checkpoint: Path) -> Reference:
    """As the official trainer has it: the very rows of the first step, scored by a copy of the model."""
    count = len(preferences)
    nothing = np.full(count, np.nan, np.float32), np.full((count, 1), np.nan, np.float32)
    seeds = np.arange(count, dtype=np.int64)[:, None]
    found = Reference(nothing[0].copy(), nothing[0].copy(), nothing[1].copy(), nothing[1].copy(), seeds)
    source = PairSource(config, preferences, Layout.load(checkpoint), found)
    samples = source.samples(0)
    batch = source.rows(samples)
    scores = batch.split(RowLogps(load_model(checkpoint)).score(batch.rows))
    for name, values in zip(SIDES, scores, strict=True):
        for sample, value in zip(samples, values.tolist(), strict=True):
            getattr(found, name)[sample.place] = value
    return found


@pytest.mark.parametrize("objective", ["product", "sum", "softmin"])
def test_at_the_first_step_product_alone_moves_no_parameter(
    checkpoint: Path, preferences_like: Callable[..., list[Preference]], objective: str
) -> None:
    preferences = preferences_like(5)
    config = msgspec.structs.replace(CONFIG, objective=objective)
    reference = live_reference(config, preferences, checkpoint)
    model, logps, _ = a_step(config, preferences, checkpoint, reference)
    for one in logps:
        assert not one.margin(config.beta).any()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    moved = [name for name, gradient in gradients.items() if gradient is not None and gradient.any()]
    assert len(moved) == (0 if objective == "product" else len(gradients))


def test_after_sum_steps_product_moves_what_it_could_not_move_at_first(
    checkpoint: Path, preferences_like: Callable[..., list[Preference]]
) -> None:
    """Without an update in between, the margins stay at 0 but for the rounding of another batch."""
    preferences = preferences_like(5)
    config = TrainConfig(batch_size=5, num_masks=1, objective="product", sum_steps=3)
    reference = live_reference(config, preferences, checkpoint)
    norms = [gradient_norm(a_step(config, preferences, checkpoint, reference, n)[0]) for n in (0, 2, 3)]
    assert norms[0] > 1.0
    assert norms[1] > 1.0
    assert norms[2] < 1e-3 * norms[0]


def test_stored_log_probs_give_the_loss_of_live_ones(
    tmp_path: Path, checkpoint: Path, other_checkpoint: Path, preferences: list[Preference], pairs_file: Path
) -> None:
    """The policy is not the reference here: margins are large, and differ by rounding alone."""
    config = TrainConfig(batch_size=6, num_masks=3, masks_per_step=2, text_dropout=0.5, seed=4)
    precompute(read_inputs(pairs_file, other_checkpoint, config), tmp_path / "refs.zarr")
    stored = open_reference(tmp_path / "refs.zarr", ReferenceBasis.of(other_checkpoint, preferences, config))
    source = PairSource(config, preferences, Layout.load(checkpoint), stored)
    policy, frozen = (RowLogps(load_model(folder)) for folder in (checkpoint, other_checkpoint))
    samples = source.samples(1)
    batch = source.rows(samples)
    logps = source.pair_logps(samples, batch, policy.score(batch.rows))
    live = batch.split(frozen.score(batch.rows))
    found = [logps[0].reference_win_P, logps[0].reference_lose_P]
    found += [logps[1].reference_win_P, logps[1].reference_lose_P]
    for one, other in zip(found, live, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert max(one.margin(0.2).abs().max() for one in logps) > 0.1


def test_dropped_texts_are_those_that_the_reference_was_scored_without(
    tmp_path: Path, checkpoint: Path, preferences: list[Preference], pairs_file: Path
) -> None:
    config = TrainConfig(batch_size=6, num_masks=4, masks_per_step=4, text_dropout=0.5)
    basis = ReferenceBasis.of(checkpoint, preferences, config)
    store = precompute(read_inputs(pairs_file, checkpoint, config), tmp_path / "refs.zarr")
    reference = open_reference(store, basis)
    source = PairSource(config, preferences, Layout.load(checkpoint), reference)
    samples = source.samples(0)
    batch = source.rows(samples)
    words = Layout.load(checkpoint).words
    are_images = batch.rows.ids_RT[:, 0] == words.t2i
    third = batch.rows.ids_RT[are_images, 2] == words.eos
    assert 0 < third.sum() < len(third)
    winners, losers = third.chunk(2)
    assert torch.equal(winners, losers)
    logps = source.pair_logps(samples, batch, RowLogps(load_model(checkpoint)).score(batch.rows))
    for one in logps:
        torch.testing.assert_close(one.policy_win_P, one.reference_win_P, atol=1e-4, rtol=0)
    shares = batch.rows.labels_RT[are_images] != IGNORE
    assert torch.equal(*shares.sum(1).chunk(2))


def test_a_step_reports_the_divergence_of_each_side(
    checkpoint: Path, preferences_like: Callable[..., list[Preference]]
) -> None:
    preferences = preferences_like(5)
    reference = live_reference(CONFIG, preferences, checkpoint)
    shifted = reference._replace(caption_win=reference.caption_win + 3.0)
    source = PairSource(CONFIG, preferences, Layout.load(checkpoint), shifted)
    samples = source.samples(0)
    batch = source.rows(samples)
    logps = source.pair_logps(samples, batch, RowLogps(load_model(checkpoint)).score(batch.rows))
    sums = pass_sums(batch_loss(*logps, CONFIG), *logps, tokens=1)
    record = train_step(
        over_ranks([sums], lambda one: one), step=1, grad_norm=0.0, learning_rate=0.0, epoch=0, skipped=0,
        seconds=0.0, peak_memory_mib=0.0,
    )  # fmt: skip
    assert record.captions
    assert record.images
    assert record.captions.kl == pytest.approx(1.5, abs=1e-4)
    assert record.images.kl == pytest.approx(0.0, abs=1e-6)
