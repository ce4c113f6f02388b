"""Rows, training and serving of the variant that understands CLIP features see the same thing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.checkpoints.weights import load_model
from engine.errors import DataError
from engine.files.clip_features import FEATURES, open_features, save_features
from engine.models.masks import feature_mask
from engine.models.phi import dense_attention, run_layers
from engine.records import ImageTokens, Preference
from train.command import precompute
from train.config import TrainConfig
from train.data.batch import IGNORE, Layout, pair_rows
from train.data.image_mask import ImageMask
from train.logging.metrics import TrainStep
from train.logps.row_logps import RowLogps
from train.loop import run_training
from train.reference.inputs import read_inputs

COUNT, SIZE = 16, 24
TOLERANCE = 5e-5


@pytest.fixture
def seen(tmp_path: Path, preferences: list[Preference]) -> list[Preference]:
    """The preferences with stored features of their real images."""
    rng = np.random.default_rng(3)
    found = []
    for one in preferences:
        features = rng.standard_normal((COUNT, SIZE)).astype("<f4").tobytes()
        name = save_features(tmp_path / FEATURES, ImageTokens(codes=one.image_codes, features=features))
        found.append(msgspec.structs.replace(one, image_features=name))
    return found


@pytest.fixture
def layout(clip_checkpoint: Path, tmp_path: Path) -> Layout:
    return Layout.load(clip_checkpoint, tmp_path / FEATURES)


def masks(preferences: list[Preference]) -> list[list[ImageMask]]:
    return [[ImageMask(np.arange(9) % 2 == 0)] for _ in preferences]


def test_a_caption_row_is_the_official_sequence_under_the_official_mask(
    clip_checkpoint: Path, layout: Layout, seen: list[Preference], tmp_path: Path
) -> None:
    scorer, config, words = RowLogps(load_model(clip_checkpoint)), layout.config, layout.words
    one = seen[0]
    assert one.captions
    caption = [*one.captions.win.token_ids, words.eos]
    prompt = [words.mmu, *config.system_ids, words.soi, *[0] * COUNT, words.eoi, *layout._caption_prompt]
    start = 2 + len(config.system_ids)
    row = layout.caption_row(one.image_codes, one.captions.win.token_ids, one.image_features)
    assert [token for i, token in enumerate(row.ids) if not start <= i < start + COUNT] == [
        token for i, token in enumerate(prompt + caption) if not start <= i < start + COUNT
    ]
    assert row.labels == [IGNORE] * (len(prompt) - 1) + caption + [IGNORE]
    model = scorer.model
    stored = open_features(tmp_path / FEATURES, one.image_features, one.image_codes, COUNT, SIZE)
    features = torch.from_numpy(np.array(stored))
    with torch.no_grad():
        hidden = model.embed(torch.tensor([prompt + caption]))
        hidden[0, start : start + COUNT] = model.mm_projector(features)
        cos, sin = model.rotary(torch.arange(hidden.shape[1]))
        mask = feature_mask(hidden.shape[1], start, COUNT)
        out = model.final_norm(run_layers(model.layers, hidden, cos, sin, dense_attention(mask)))
        logp = model.head(out).log_softmax(-1)[0]
    wanted = sum(logp[len(prompt) - 1 + i, token].item() for i, token in enumerate(caption))
    assert scorer.score(layout.stack([row])).item() == pytest.approx(wanted, abs=TOLERANCE)


def test_rows_score_alike_alone_and_in_a_mixed_batch(
    clip_checkpoint: Path, layout: Layout, seen: list[Preference]
) -> None:
    scorer = RowLogps(load_model(clip_checkpoint))
    batch = pair_rows(layout, seen, masks(seen))
    assert batch.rows.features is not None
    assert batch.rows.features.shape == (10, COUNT, SIZE)
    together = scorer.score(batch.rows)
    alone = []
    for side in ("win", "lose"):
        for one in seen:
            if one.captions:
                ids = getattr(one.captions, side).token_ids
                row = layout.caption_row(one.image_codes, ids, one.image_features)
                alone.append(scorer.score(layout.stack([row])).item())
    for side in ("win", "lose"):
        for one in seen:
            if one.images:
                row = layout.image_row(one.caption, getattr(one.images, side).codes, np.arange(9) % 2 == 0)
                alone.append(scorer.score(layout.stack([row])).item())
    assert together.tolist() == pytest.approx(alone, abs=TOLERANCE)


def test_image_rows_do_not_know_the_projector(
    clip_checkpoint: Path, layout: Layout, seen: list[Preference]
) -> None:
    scorer = RowLogps(load_model(clip_checkpoint).train())
    batch = pair_rows(layout, seen, masks(seen), captions=False)
    scorer(*batch.rows).sum().backward()
    gradient = scorer.model.mm_projector[0].weight.grad
    assert gradient is not None
    assert not gradient.any()


def test_training_moves_the_projector_and_keeps_the_tower(
    clip_checkpoint: Path,
    seen: list[Preference],
    tmp_path: Path,
    write_pairs: Callable[[Path, list[Preference]], Path],
) -> None:
    pytest.importorskip("deepspeed")
    pairs = write_pairs(tmp_path / "pairs.jsonl", seen)
    config = TrainConfig(steps=3, batch_size=2, learning_rate=1e-3, warmup=0, num_masks=2, masks_per_step=1)
    inputs = read_inputs(pairs, clip_checkpoint, config)
    store = precompute(inputs, tmp_path / "reference.zarr")
    steps: list[TrainStep] = []
    out = run_training(inputs, tmp_path / "out", store, steps.append)
    assert steps[0].loss == pytest.approx(2 * math.log(2), abs=math.log(2) + 1e-3)
    assert all(math.isfinite(step.loss) for step in steps)
    before, after = (load_file(folder / "model.safetensors") for folder in (clip_checkpoint, out))
    assert before.keys() == after.keys()
    moved = (before["mm_projector.0.weight"] - after["mm_projector.0.weight"]).abs().max()
    assert moved > 1e-5
    assert (out / "clip" / "model.safetensors").is_file()


def test_features_that_are_missing_or_of_another_model_are_named(
    layout: Layout, seen: list[Preference], preferences: list[Preference], tmp_path: Path
) -> None:
    layout.check(seen)
    with pytest.raises(DataError, match=r"an image without features.*curate again"):
        layout.check(preferences)
    (tmp_path / FEATURES / seen[0].image_features).write_bytes(b"1234")
    with pytest.raises(DataError, match="holds 4 bytes, the checkpoint takes 16 features of 24"):
        layout.check(seen)
    (tmp_path / FEATURES / seen[0].image_features).unlink()
    with pytest.raises(DataError, match="are missing; curate again"):
        layout.check(seen)


def test_the_engine_and_the_trainer_score_an_image_alike(clip_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    from engine.serving.engine import Engine

    texts = ["a red cube", "two blue ball and a green cone on the left"]
    with Engine(clip_checkpoint, kv_cache_gib=0.125) as engine:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
        images = engine.encode(pixels)
        served = [sum(row) for row in engine.score(images, texts)]
        ids = [engine.text.encode(text) for text in texts]
    layout = Layout.load(clip_checkpoint, tmp_path / FEATURES)
    rows = [
        layout.caption_row(image.codes, tokens, save_features(tmp_path / FEATURES, image))
        for image, tokens in zip(images, ids, strict=True)
    ]
    trained = RowLogps(load_model(clip_checkpoint)).score(layout.stack(rows)).tolist()
    worst = max(abs(a - b) for a, b in zip(served, trained, strict=True))
    print(f"largest difference of a caption's log-prob: {worst:.1e}")
    assert worst < TOLERANCE
