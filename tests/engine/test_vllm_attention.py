"""How a batch of requests becomes rows with and without causality."""

from __future__ import annotations

import pytest
import torch

from engine.errors import EngineError

pytest.importorskip("vllm")

from engine.vllm_attention import split_prefix
from engine.vllm_launch import block_size


def starts(*queries: int) -> torch.Tensor:
    return torch.tensor([0, *queries]).cumsum(0).int()


def test_a_whole_prompt_becomes_a_prefix_row_and_a_causal_row() -> None:
    rows = split_prefix(starts(50), torch.tensor([50]), 39)
    assert rows is not None
    assert rows.query_start.tolist() == [0, 39, 50]
    assert rows.seq_lens.tolist() == [39, 50]
    assert rows.request.tolist() == [0, 0]
    assert rows.causal.tolist() == [0, 1]


def test_cached_blocks_decoding_rows_and_bare_prefixes_mix() -> None:
    # a prompt whose first 32 tokens are cached; a decoding request; a prompt that is the prefix alone
    rows = split_prefix(starts(13, 1, 39), torch.tensor([45, 60, 39]), 39)
    assert rows is not None
    assert rows.query_start.tolist() == [0, 7, 13, 14, 53]
    assert rows.seq_lens.tolist() == [39, 45, 60, 39]
    assert rows.request.tolist() == [0, 0, 1, 2]
    assert rows.causal.tolist() == [0, 1, 1, 0]


def test_features_see_the_whole_prefix_and_the_system_prompt_after_them_is_causal() -> None:
    # 25 features and 9 tokens before the text: whole; cached up to a feature; cached past the features
    rows = split_prefix(starts(50, 18, 8), torch.tensor([50, 34, 40]), 34, 25)
    assert rows is not None
    assert rows.query_start.tolist() == [0, 25, 50, 59, 68, 76]
    assert rows.seq_lens.tolist() == [34, 50, 34, 34, 40]
    assert rows.request.tolist() == [0, 0, 1, 1, 2]
    assert rows.causal.tolist() == [0, 1, 0, 1, 1]


def test_a_batch_that_only_decodes_stays_as_it_is() -> None:
    assert split_prefix(starts(1, 1, 3), torch.tensor([40, 77, 42]), 39) is None


def test_a_cut_inside_the_prefix_is_refused() -> None:
    with pytest.raises(EngineError, match=r"cut at \[20\] tokens, inside the image prefix of 39"):
        split_prefix(starts(50, 20), torch.tensor([50, 20]), 39)


@pytest.mark.parametrize(
    ("prefix", "size"), [(19, 32), (39, 32), (67, 64), (103, 96), (259, 128), (606, 96), (1027, 128)]
)
def test_whole_blocks_cover_as_much_of_the_prefix_as_they_can(prefix: int, size: int) -> None:
    assert block_size(prefix) == size
