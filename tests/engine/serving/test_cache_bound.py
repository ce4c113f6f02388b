"""Beside the branched sampler vLLM's cache is tiny, and the size of the sampler's own decides no sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from engine.machine.kv_cache import least_gib, paged_head
from engine.models.masks import mmu_mask
from engine.models.showo import Showo
from engine.records import CaptionSettings, ImageTokens, Question

pytest.importorskip("vllm")

if TYPE_CHECKING:
    from engine.serving.engine import Engine

PLAN = [CaptionSettings(max_tokens=12), CaptionSettings(temperature=0.0, max_tokens=5)]


def samples(engine: Engine, images: list[ImageTokens], ask: Callable[..., Question]) -> tuple[object, ...]:
    keys = [str(i) for i in range(len(images))]
    questions = [[ask("how many?"), ask("what color?", "red", "blue")] for _ in images]
    return engine.caption(images, keys, 3, PLAN), engine.answer(images, questions)


def cache_bytes(engine: Engine) -> int:
    (worker,) = engine.server.llm.collective_rpc(lambda one: one)
    storages = [one.untyped_storage() for one in worker.model_runner.kv_caches]
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


def test_samples_do_not_depend_on_what_the_cache_holds(
    checkpoints: tuple[Path, Path], images: list[ImageTokens], ask: Callable[..., Question]
) -> None:
    """Log-probs included: from one image at a time to all of them."""
    from engine.serving.engine import Engine

    found = []
    for gib, batch in ((0.0, 128), (2e-4, 3), (1e-9, 1)):
        with Engine(checkpoints[0], kv_cache_gib=gib) as engine:
            limits = engine._captions._limits
            assert limits is not None
            assert limits.prefixes(engine.config, 40, 2, 12) == batch
            found.append(samples(engine, images, ask))
    assert found[0] == found[1] == found[2]


def test_vllms_cache_beside_the_branched_sampler_holds_the_longest_text_and_no_more(
    checkpoints: tuple[Path, Path], images: list[ImageTokens], model: Showo
) -> None:
    from engine.serving.engine import Engine

    with Engine(checkpoints[0]) as engine:
        config = engine.config
        least = least_gib(config, "float32", paged_head(config.head_dim))
        assert cache_bytes(engine) == least * 2**30
        prompt = engine.text.encode(config.caption_prompt)
        words = config.vocabulary.mmu_prompt(images[0].codes, prompt)
        room = config.max_position_embeddings - len(words) - 2
        texts = [" ".join(["red", "blue"] * room)[: 4 * room].rsplit(" ", 1)[0] for _ in images]
        tails = [[*engine.text.encode(text)[:room], config.vocabulary.eos] for text in texts]
        scored = engine.score(images, [engine.text.decode(tail[:-1]) for tail in tails])
        assert {len(row) for row in scored} == {len(tails[0])}
        row = torch.tensor([[*words, *tails[0]]])
        with torch.no_grad():
            logp = model.head(model(row, mmu_mask(row, config.vocabulary.eoi))).log_softmax(-1)[0]
        wanted = [logp[len(words) - 1 + i, token].item() for i, token in enumerate(tails[0])]
        assert scored[0] == pytest.approx(wanted, abs=1e-5)
