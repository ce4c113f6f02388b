"""Reading on a pretended GPU: no pass mixes devices, and none waits for what the device computes."""

from __future__ import annotations

import pytest
import torch
from pretended_cuda import CUDA, moved, pretended_cuda, small_showo
from torch._subclasses.fake_tensor import DataDependentOutputException

from engine.models.showo import Showo
from engine.samplers.choices import passes, read_choices
from engine.samplers.continuations import ImageQuestions, Prefix, TokenizedQuestion, read_prefixes

ASKS = [
    TokenizedQuestion((5, 6, 7), ((1,), (2, 3))),
    TokenizedQuestion((5, 8), ()),
    TokenizedQuestion((5, 9, 9, 9), ((4, 4, 4), (2,), (3,))),
]


def showo(clip: bool) -> Showo:
    """A small model without weights."""
    more = {"w_clip_vit": True, "clip_tokens": 9, "clip_size": 24, "system_ids": [3, 4]} if clip else {}
    return small_showo(**more)


def prefix(model: Showo) -> tuple[list[int], torch.Tensor | None]:
    """An image in front of its questions, with what CLIP sees of it."""
    config, words = model.config, model.config.vocabulary
    if not config.w_clip_vit:
        return words.mmu_prefix([1] * config.num_image_tokens), None
    features = torch.zeros(config.clip_tokens, config.clip_size)
    return words.feature_prompt(config.system_ids, config.clip_tokens, ()), features


@pytest.mark.parametrize("clip", [False, True])
def test_choices_are_read_on_the_models_device_and_fetched_once_at_the_end(clip: bool) -> None:
    with pretended_cuda():
        model = moved(showo(clip))
        ids, features = prefix(model)
        image = Prefix(ids, features)
        seen = [ImageQuestions.of(image, asks) for asks in (ASKS, ASKS[:1], [])] * 3
        found = passes(model, seen, tokens=150)
        assert len(found) >= 2
        assert {one.logps.device for one in found} | {one.greedy.device for one in found} == {CUDA}
        with pytest.raises(DataDependentOutputException):
            read_choices(model, seen)


@pytest.mark.parametrize("clip", [False, True])
def test_prefixes_are_read_on_the_models_device(clip: bool) -> None:
    with pretended_cuda():
        model = moved(showo(clip))
        ids, features = prefix(model)
        read = read_prefixes(model, [Prefix([*ids, 5], features)] * 3)
        assert {read.last.device, *(one.keys.device for one in read.layers)} == {CUDA}
