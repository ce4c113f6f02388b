"""How a batch of requests becomes rows with and without causality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from engine.errors import EngineError
from engine.models.phi import rotary_tables
from engine.records import ImageTokens

pytest.importorskip("vllm")

from vllm.config import SchedulerConfig

from engine.machine.kv_cache import block_size
from engine.serving.attention import split_prefix
from engine.serving.launch import require_whole_prompts

if TYPE_CHECKING:
    from engine.serving.engine import Engine


def starts(*queries: int) -> torch.Tensor:
    return torch.tensor([0, *queries]).cumsum(0).int()


def test_a_whole_prompt_becomes_a_prefix_row_and_a_causal_row() -> None:
    rows = split_prefix(starts(50), torch.tensor([50]), 39)
    assert rows is not None
    assert rows.query_start.tolist() == [0, 39, 50]
    assert rows.seq_lens.tolist() == [39, 50]
    assert rows.request.tolist() == [0, 0]
    assert rows.causal.tolist() == [False, True]


def test_cached_blocks_decoding_rows_and_bare_prefixes_mix() -> None:
    # a prompt whose first 32 tokens are cached; a decoding request; a prompt that is the prefix alone
    rows = split_prefix(starts(13, 1, 39), torch.tensor([45, 60, 39]), 39)
    assert rows is not None
    assert rows.query_start.tolist() == [0, 7, 13, 14, 53]
    assert rows.seq_lens.tolist() == [39, 45, 60, 39]
    assert rows.request.tolist() == [0, 0, 1, 2]
    assert rows.causal.tolist() == [False, True, True, False]


def test_features_see_the_whole_prefix_and_the_system_prompt_after_them_is_causal() -> None:
    # 25 features and 9 tokens before the text: whole; cached up to a feature; cached past the features
    rows = split_prefix(starts(50, 18, 8), torch.tensor([50, 34, 40]), 34, 25)
    assert rows is not None
    assert rows.query_start.tolist() == [0, 25, 50, 59, 68, 76]
    assert rows.seq_lens.tolist() == [34, 50, 34, 34, 40]
    assert rows.request.tolist() == [0, 0, 1, 1, 2]
    assert rows.causal.tolist() == [False, True, False, True, True]


def test_a_batch_that_only_decodes_stays_as_it_is() -> None:
    assert split_prefix(starts(1, 1, 3), torch.tensor([40, 77, 42]), 39) is None


def test_prompts_without_a_whole_image_are_refused(engine: Engine, images: list[ImageTokens]) -> None:
    params = engine.server.sampling(max_tokens=1)
    (whole,) = engine.prompts.requests(images[0], [(1, 2)], 1)
    cut = {**whole, "prompt_token_ids": whole["prompt_token_ids"][:20]}
    unsalted = {"prompt_token_ids": whole["prompt_token_ids"]}
    for request, length in ((cut, 20), (unsalted, 42)):
        match = (
            f"a prompt of {length} tokens: each must start with a whole image, 39 tokens, and carry its salt"
        )
        with pytest.raises(EngineError, match=match):
            engine.server.generate([whole, request], [params] * 2)
    assert engine.server.generate([whole], [params])


def test_a_vllm_that_cuts_prompts_is_refused() -> None:
    sizes = {"max_model_len": 96, "max_num_batched_tokens": 96, "max_num_seqs": 8}
    kept = {**sizes, "is_encoder_decoder": False, "enable_chunked_prefill": False}
    require_whole_prompts(SchedulerConfig(**kept))
    for cuts in ({"enable_chunked_prefill": True}, {"long_prefill_token_threshold": 32}):
        with pytest.raises(EngineError, match="would cut image prefixes; install the pinned vLLM version"):
            require_whole_prompts(SchedulerConfig(**{**kept, **cuts}))


def test_the_rotary_tables_are_computed_once_to_the_same_bits(engine: Engine) -> None:
    def same(worker: Any) -> bool:
        model, config = worker.model_runner.get_model(), engine.config
        generator = torch.Generator().manual_seed(0)
        every = [torch.arange(96), *(torch.randint(96, (n,), generator=generator) for n in range(1, 40))]
        pairs = [(model.rotary(at), rotary_tables(at, config.rotary_dim, config.rope_theta)) for at in every]
        # Kept by name, so that vLLM's sleep restores it where it was.
        assert {"cos", "sin"} <= dict(model.named_buffers()).keys()
        return all(torch.equal(one, other) for both in pairs for one, other in zip(*both, strict=True))

    assert engine.server.llm.collective_rpc(same) == [True]


@pytest.mark.parametrize(
    ("prefix", "size"), [(19, 32), (39, 32), (67, 64), (103, 96), (259, 128), (606, 96), (1027, 128)]
)
def test_whole_blocks_cover_as_much_of_the_prefix_as_they_can(prefix: int, size: int) -> None:
    assert block_size(prefix) == size
