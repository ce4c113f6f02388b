"""The variant that understands CLIP features: the tower, layout, mask and projected embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from engine.checkpoints.weights import load_model
from engine.errors import CheckpointError
from engine.models.clip_tower import ClipTower, pixels
from engine.models.masks import feature_mask
from engine.models.showo import Showo

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def seen(clip_checkpoints: tuple[Path, Path]) -> Showo:
    return load_model(clip_checkpoints[0])


def random_images(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (300, 300), (336, 336), (37, 91), (120, 61)])
def test_preprocessing_is_that_of_transformers(height: int, width: int) -> None:
    (image,) = random_images(1, height, width)
    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    ).preprocess(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels(image, 336), theirs, atol=1e-6, rtol=1e-6)


def test_features_are_the_patches_of_the_last_layer_but_one(clip_checkpoints: tuple[Path, Path]) -> None:
    folder = clip_checkpoints[0] / "clip"
    images = random_images(3, 48, 48)
    tower = ClipTower.load(folder)
    assert (tower.tokens, tower.width) == (25, 24)
    theirs = CLIPVisionModel.from_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40})
    stacked = processor.preprocess([Image.fromarray(one) for one in images], return_tensors="pt")
    last_but_one: list[torch.Tensor] = []
    theirs.encoder.layers[1].register_forward_hook(lambda *call: last_but_one.append(call[-1]))
    with torch.no_grad():
        states = theirs(stacked["pixel_values"], output_hidden_states=True).hidden_states
    found = torch.from_numpy(tower.features(images))
    assert len(states) == 4
    worst = (found - states[-2][:, 1:]).abs().max().item()
    print(f"largest difference of a feature: {worst:.1e}")
    assert worst < TOLERANCE
    hooked = last_but_one[0][0] if isinstance(last_but_one[0], tuple) else last_but_one[0]
    torch.testing.assert_close(found, hooked[:, 1:], atol=TOLERANCE, rtol=0)
    assert (states[-1][:, 1:] - states[-2][:, 1:]).abs().max() > 0.1


def test_an_images_features_do_not_depend_on_its_batch(clip_checkpoints: tuple[Path, Path]) -> None:
    tower, images = ClipTower.load(clip_checkpoints[0] / "clip"), random_images(3, 48, 48)
    assert np.array_equal(tower.features(images)[1:2], tower.features(images[1:2]))
    assert tower.features(images[:0]).shape == (0, 25, 24)


def test_a_tower_that_does_not_fit_is_refused(clip_checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no usable CLIP vision tower"):
        ClipTower.load(tmp_path)
    (tmp_path / "config.json").write_bytes((clip_checkpoints[0] / "clip" / "config.json").read_bytes())
    state = load_file(clip_checkpoints[0] / "clip" / "model.safetensors")
    state.pop(next(name for name in state if "pre_layrnorm" in name))
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="pre_layrnorm"):
        ClipTower.load(tmp_path)


def test_everyone_sees_the_features_and_of_the_rest_only_what_is_past() -> None:
    system, count, text = 28, 576, 5
    length = 1 + system + 1 + count + 1 + text
    index = 1 + system + 1 + count
    wanted = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    wanted[:, :, :, 1 + system + 1 : index] = True
    assert torch.equal(feature_mask(length, system + 2, count), wanted)


def test_the_layout_is_system_prompt_image_text(seen: Showo) -> None:
    config, words = seen.config, seen.config.vocabulary
    ids = words.feature_prompt(config.system_ids, config.clip_tokens, [3, 4])
    start, stop = config.image_start, config.image_start + config.clip_tokens
    assert ids[:start] == [words.mmu, *config.system_ids, words.soi]
    assert ids[start:stop] == [words.pad] * 25
    assert ids[stop:] == [words.eoi, 3, 4]
    assert config.prefix_length == stop


def test_projected_features_take_the_place_of_ids_in_understanding_rows_alone(seen: Showo) -> None:
    config, words = seen.config, seen.config.vocabulary
    prompt = words.feature_prompt(config.system_ids, config.clip_tokens, [3, 4])
    generated = [words.t2i, *prompt[1:]]
    ids = torch.tensor([generated, prompt, generated, prompt])
    features = torch.randn(2, 25, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = seen.embed_seen(ids, features)
        plain = seen.embed(ids)
        w0, b0, w2, b2 = (
            seen.state_dict()[f"mm_projector.{n}"] for n in ("0.weight", "0.bias", "2.weight", "2.bias")
        )
        by_hand = torch.nn.functional.gelu(features @ w0.T + b0) @ w2.T + b2
    assert torch.equal(found[[0, 2]], plain[[0, 2]])
    start, stop = config.image_start, config.image_start + 25
    torch.testing.assert_close(found[[1, 3], start:stop], by_hand, atol=1e-5, rtol=1e-5)
    assert torch.equal(found[[1, 3], :start], plain[[1, 3], :start])
    assert torch.equal(found[[1, 3], stop:], plain[[1, 3], stop:])


def test_a_batch_without_understanding_rows_still_reaches_the_projector(seen: Showo) -> None:
    words = seen.config.vocabulary
    ids = torch.tensor([[words.t2i, 1, 2, words.soi]])
    mask = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    found = seen(ids, mask, features=torch.zeros(0, 25, 24))
    assert torch.equal(found, seen(ids, mask))
    found.sum().backward()
    gradient = seen.mm_projector[0].weight.grad
    assert gradient is not None
    assert not gradient.any()
    seen.zero_grad()
