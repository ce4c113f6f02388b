"""Supervised fine-tuning on the homologous pair: its rows, its loss, and what training makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from training import run

from engine.checkpoints.weights import load_model
from engine.errors import ConfigError, DataError
from engine.records import Preference
from train.command import precompute
from train.config import TrainConfig
from train.data.batch import IGNORE, Layout, pair_rows
from train.data.image_mask import ImageMask, image_mask, mask_seed
from train.logging.metrics import TrainStep
from train.logps.row_logps import RowLogps
from train.losses.loss import batch_loss
from train.pair_source import PairSource
from train.reference.inputs import read_inputs
from train.reference.reference import open_reference

BOTH = TrainConfig(
    batch_size=6,
    num_masks=4,
    masks_per_step=2,
    text_dropout=0.5,
    caption_sft_weight=0.5,
    image_sft_weight=2.0,
)


def source_of(config: TrainConfig, pairs_file: Path, checkpoint: Path, store: Path) -> PairSource:
    inputs = read_inputs(pairs_file, checkpoint, config)
    reference = open_reference(precompute(inputs, store), inputs.basis.reference)
    return PairSource(config, inputs.preferences, Layout.load(checkpoint), reference)


def test_a_real_image_is_seen_under_masks_of_its_own(checkpoint: Path, preferences: list[Preference]) -> None:
    layout = Layout.load(checkpoint)
    tokens = layout.config.num_image_tokens
    masks = [[ImageMask(np.arange(tokens) > 0)] for _ in preferences]
    own = [[ImageMask(np.arange(tokens) == 2)] * 3 for _ in preferences]
    batch = pair_rows(layout, preferences, masks, captions=False, real_images=own)
    labels = (batch.rows.labels_RT != IGNORE).sum(1).tolist()
    assert labels == [tokens - 1] * batch.paired + [1] * 3 * len(preferences)


def test_a_real_image_has_another_mask_each_time_and_the_same_after_a_restart(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    config = msgspec.structs.replace(BOTH, num_masks=2)
    source = source_of(config, pairs_file, checkpoint, tmp_path / "refs.zarr")

    def shown(step: int) -> torch.Tensor:
        batch = source.rows(sorted(source.samples(step)))
        return batch.rows.labels_RT[batch.paired + len(batch.homologous) :] != IGNORE

    assert torch.equal(shown(0), shown(0))
    seen = [shown(step)[0].tolist() for step in range(4)]
    assert len({tuple(one) for one in seen}) > 2


def test_epochs_without_pairs_bring_the_real_pair_alone(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    """Over a whole period each pair has come once; what they bring counts for the epochs that they miss."""
    config = msgspec.structs.replace(BOTH, dpo_every_n_epochs=3)
    source = source_of(config, pairs_file, checkpoint, tmp_path / "refs.zarr")
    model = RowLogps(load_model(checkpoint))
    paired: list[int] = []
    for step in range(3):
        samples = source.samples(step)
        batch = source.rows(samples)
        logp_R = model.score(batch.rows)
        captions, images = source.pair_logps(samples, batch, logp_R)
        has_P = torch.tensor([one.paired for one in samples])
        assert not (captions.has_P & ~has_P).any()
        assert len(batch.homologous) == len(samples)
        paired += [one.place for one in samples if one.paired]
        loss = batch_loss(captions, images, config, step, *batch.real_losses(logp_R))
        alone = 0.5 * loss.real_captions_P + 2.0 * loss.real_images_P
        wanted = (3 * loss.loss_P.sum() + alone.sum()) / len(samples)
        assert loss.total.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert sorted(paired) == list(range(6))


def test_where_there_is_no_real_image_every_epoch_brings_the_pairs(
    tmp_path: Path,
    checkpoint: Path,
    preferences: list[Preference],
    write_pairs: Callable[[Path, list[Preference]], Path],
) -> None:
    """Imported pairs may have no codes of their real image; an epoch without pairs would be empty."""
    bare = [msgspec.structs.replace(one, captions=None, image_codes=()) for one in preferences]
    pairs = write_pairs(tmp_path / "pairs.jsonl", bare)
    rare = TrainConfig(
        batch_size=2,
        micro_batch_size=1,
        steps=4,
        num_masks=1,
        trackers=(),
        image_sft_weight=1.0,
        dpo_every_n_epochs=3,
    )
    always = msgspec.structs.replace(rare, image_sft_weight=0.0, dpo_every_n_epochs=1)
    logs = []
    for name, config in (("rare", rare), ("always", always)):
        steps: list[TrainStep] = []
        run(pairs, checkpoint, tmp_path / name / "out", config, steps.append)
        logs.append(steps)
    assert [one.loss for one in logs[0]] == pytest.approx([one.loss for one in logs[1]], rel=1e-5)
    assert all(one.images.pairs == 2 for one in logs[0])


def test_pairs_come_seldom_only_beside_the_real_pair() -> None:
    with pytest.raises(ConfigError, match=r"dpo_every_n_epochs is 2.*image_sft_weight"):
        TrainConfig(dpo_every_n_epochs=2)


def test_real_rows_follow_the_pairs_and_show_the_item_itself(
    checkpoint: Path, preferences: list[Preference]
) -> None:
    layout = Layout.load(checkpoint)
    tokens = layout.config.num_image_tokens
    masks = [[image_mask(mask_seed(one.id, k, 0), tokens) for k in range(2)] for one in preferences]
    plain = pair_rows(layout, preferences, masks)
    batch = pair_rows(layout, preferences, masks, real_captions=True, real_images=masks)
    assert batch.paired == plain.paired == len(plain.rows.ids_RT)
    width = plain.rows.ids_RT.shape[1]
    assert torch.equal(batch.rows.labels_RT[: batch.paired, :width], plain.rows.labels_RT)
    real = batch.rows.labels_RT[batch.paired :]
    told, shown = real.split([len(preferences), 2 * len(preferences)])
    for row, one in zip(told, preferences, strict=True):
        wanted = layout.caption_row(one.image_codes, layout.encode(one.caption)).labels
        assert row[: len(wanted)].tolist() == wanted
    for number, row in enumerate(shown):
        one, mask = preferences[number // 2], masks[number // 2][number % 2]
        seen = row[row != IGNORE] - layout.words.code_offset
        masked = [code for code, is_masked in zip(one.image_codes, mask.masked, strict=True) if is_masked]
        assert seen.tolist() == masked
    are_images = batch.rows.ids_RT[batch.paired :, 0] == layout.words.t2i
    assert are_images.tolist() == [False] * len(told) + [True] * len(shown)
    values = torch.arange(float(len(batch.rows.ids_RT)))
    for one, other in zip(batch.split(values), plain.split(values[: plain.paired]), strict=True):
        assert torch.equal(one, other)
    captions, images = batch.real(values)
    assert captions is not None
    assert images is not None
    assert captions.tolist() == values[batch.paired :][: len(told)].tolist()
    assert images.tolist() == values[batch.paired + len(told) :].view(-1, 2).mean(1).tolist()


def test_the_real_pair_adds_its_weight_times_the_loss_per_token(
    tmp_path: Path, checkpoint: Path, pairs_file: Path
) -> None:
    source = source_of(BOTH, pairs_file, checkpoint, tmp_path / "refs.zarr")
    samples = source.samples(0)
    batch = source.rows(samples)
    logp_R = RowLogps(load_model(checkpoint)).score(batch.rows)
    logps, real = source.pair_logps(samples, batch, logp_R), batch.real_losses(logp_R)
    plain = msgspec.structs.replace(BOTH, caption_sft_weight=0.0, image_sft_weight=0.0)
    with_real, without = batch_loss(*logps, BOTH, 0, *real), batch_loss(*logps, plain)
    labels_R = (batch.rows.labels_RT != IGNORE).sum(1)
    told, shown = slice(batch.paired, batch.paired + 6), slice(batch.paired + 6, None)
    captions = -(logp_R / labels_R)[told]
    images = -logp_R[shown].view(6, 2).sum(1) / labels_R[shown].view(6, 2).sum(1)
    counted = with_real.counted_P
    wanted = (0.5 * captions + 2.0 * images)[counted].mean()
    assert (with_real.total - without.total).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.equal(with_real.loss_P, without.loss_P)


@pytest.mark.parametrize("objective", ["sum", "und", "gen"])
def test_training_makes_the_real_pair_likelier_whatever_the_objective(
    tmp_path: Path, checkpoint: Path, pairs_file: Path, objective: str
) -> None:
    """Weighted beyond all else here: what it pulls at must move."""
    steps: list[TrainStep] = []
    config = TrainConfig(
        objective=objective, steps=20, batch_size=6, learning_rate=3e-3, trackers=(),
        caption_sft_weight=10.0, image_sft_weight=10.0,
    )  # fmt: skip
    run(pairs_file, checkpoint, tmp_path / "out", config, steps.append)
    for name in ("real_caption_loss", "real_image_loss"):
        assert getattr(steps[-1], name) < 0.9 * getattr(steps[0], name)


def test_without_a_weight_nothing_is_told_of_the_real_pair(
    tmp_path: Path, checkpoint: Path, pairs_file: Path
) -> None:
    steps: list[TrainStep] = []
    config = TrainConfig(steps=1, trackers=())
    run(pairs_file, checkpoint, tmp_path / "out", config, steps.append)
    assert steps[0].real_caption_loss is None
    assert steps[0].real_image_loss is None


def test_a_real_image_without_codes_is_left_out(checkpoint: Path, preferences: list[Preference]) -> None:
    layout = Layout.load(checkpoint)
    tokens = layout.config.num_image_tokens
    bare = [
        msgspec.structs.replace(one, captions=None, image_codes=()) if place == 1 else one
        for place, one in enumerate(preferences)
    ]
    masks = [[image_mask(mask_seed(one.id, 0, 0), tokens)] for one in bare]
    layout.check(bare, real=True)
    batch = pair_rows(layout, bare, masks, real_captions=True, real_images=masks)
    captions, images = batch.real(torch.ones(len(batch.rows.ids_RT)))
    for values in (captions, images):
        assert values is not None
        assert values.tolist() == [float(place != 1) for place in range(len(bare))]


def test_a_real_image_that_does_not_fit_is_refused_only_where_it_is_read(
    checkpoint: Path, preferences_like: Callable[..., list[Preference]]
) -> None:
    layout = Layout.load(checkpoint)
    (one,) = preferences_like(1)
    broken = msgspec.structs.replace(one, captions=None, image_codes=one.image_codes[:3])
    layout.check([broken])
    with pytest.raises(DataError, match="an image of 3 codes"):
        layout.check([broken], real=True)


@pytest.mark.parametrize("name", ["caption_sft_weight", "image_sft_weight"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        TrainConfig(**{name: value})
