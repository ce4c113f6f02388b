"""Image sampling, tokenizers and CLIP keep to the device of their weights and never make the host wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from pretended_cuda import moved, pretended_cuda, small_showo
from transformers import CLIPVisionConfig, CLIPVisionModel

from engine.models.clip_tower import ClipTower, pixels
from engine.records import ImageSettings
from engine.samplers.mask_predict import MaskedBatches, SamplerCache, StaticBatches
from engine.samplers.masked_images import MaskedImages, text_prefixes
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, to_pixels, to_uint8
from engine.tokenizers.magvit_v2 import MagvitV2, MagvitV2Config
from engine.tokenizers.magvit_v2_blocks import StackConfig


@contextmanager
def pretended() -> Iterator[None]:
    """Without inference mode, in which fake tensors of one number cannot move."""
    with pretended_cuda(), torch.inference_mode(False), torch.no_grad():
        yield


TEXTS = [[1, 2, 3], [4], [5, 6]]


@pytest.mark.parametrize("schedule", ["cosine", "sigmoid"])
@pytest.mark.parametrize(("candidates", "rows"), [(4, [1, 1, 1, 1]), (2, [0, 0, 1, 1])])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_a_batch_is_generated_without_waiting_for_the_gpu(
    guidance: float, candidates: int, rows: list[int], schedule: str
) -> None:
    model, kept = small_showo(), SamplerCache()
    settings = ImageSettings(steps=3, guidance=guidance, schedule=schedule)
    with pretended():
        moved(model)
        kept.empty = text_prefixes(model, [()])
        batches = StaticBatches(model, settings, kept, 4, candidates)
        batches.hold(TEXTS)
        codes_BN = batches.sampled(rows, torch.rand(3, 2, 4, 16))
        assert codes_BN.device.type == "cuda"
        assert codes_BN.shape == (4, 16)


def test_the_form_for_cpus_would_wait() -> None:
    model = small_showo()
    with pretended():
        moved(model)
        batches = MaskedBatches(model, ImageSettings(steps=3, guidance=0.0), SamplerCache())
        batches.hold(TEXTS)
        with pytest.raises(Exception, match="nonzero"):
            batches.sampled([0, 0, 1, 1], torch.rand(3, 2, 4, 16))


def test_prefixes_and_masked_images_lie_where_the_weights_do() -> None:
    model = small_showo()
    with pretended():
        moved(model)
        prefixes = text_prefixes(model, TEXTS)
        assert {one.device.type for pair in prefixes.layers for one in pair} == {"cuda"}
        MaskedImages(model, prefixes)


def patches() -> PatchLfq:
    return PatchLfq(PatchLfqConfig(image_size=32, bits=6, width=8))


def magvit() -> MagvitV2:
    small = StackConfig(ch_mult=(1, 2), num_res_blocks=(1, 1), ch=32)
    return MagvitV2(MagvitV2Config(image_size=32, bits=6, encoder=small, decoder=small))


@pytest.mark.parametrize("build", [patches, magvit])
def test_an_image_tokenizer_works_where_its_weights_lie(build: Callable[[], PatchLfq | MagvitV2]) -> None:
    tokenizer = build().eval()
    with pretended():
        moved(tokenizer)
        images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8, device="cuda")
        codes = tokenizer.encode(to_pixels(images))
        drawn = to_uint8(tokenizer.decode(codes))
        assert (codes.device.type, drawn.device.type) == ("cuda", "cuda")
        assert drawn.shape == images.shape


def test_codes_may_come_from_the_host() -> None:
    tokenizer = patches().eval()
    with pretended():
        moved(tokenizer)
        assert tokenizer.decode(torch.zeros(2, 16, dtype=torch.int64)).device.type == "cuda"


def test_clip_sees_an_image_where_its_weights_lie() -> None:
    config = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=40,
        patch_size=8,
    )
    model = CLIPVisionModel(config)
    tower = ClipTower(model)
    image = pixels(np.zeros((48, 48, 3), np.uint8), tower.size)
    with pretended():
        moved(model)
        features = tower.seen(image[None])
        assert (features.device.type, features.shape) == ("cuda", (1, 25, 24))
