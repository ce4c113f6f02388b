"""The planned memory for keys and values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoints.weights import load_config
from engine.files.layout import EMBEDDED_MODEL
from engine.machine.kv_cache import (
    LEAST,
    MOST,
    TEXT_TOKENS,
    branched_gib,
    least_branched_gib,
    least_gib,
    planned_gib,
    token_bytes,
)
from engine.models.showo_config import ShowoConfig


def test_the_release_has_room_for_its_longest_sequence() -> None:
    config = ShowoConfig()
    longest = config.max_position_embeddings * token_bytes(config, "float32", config.head_dim) / 2**30
    assert longest == 0.75  # 2 x 24 layers x 2,048 wide x 4 bytes x 2,048 positions
    assert planned_gib(config, "float32", 1, config.head_dim) > longest
    assert planned_gib(config, "float32", 1, config.head_dim, 2) > longest / 2


def test_a_small_model_gets_the_least() -> None:
    assert planned_gib(load_config(EMBEDDED_MODEL), "float32", 128, 32) == LEAST


def test_branches_are_allowed_what_their_sequences_take_and_no_more_than_the_most() -> None:
    config = ShowoConfig()
    eight = branched_gib(config, "bfloat16", 8, 1)
    assert eight == pytest.approx(8 * (config.prefix_length + TEXT_TOKENS) * 192 * 1024 / 2**30)
    assert branched_gib(config, "bfloat16", 8, 2) == eight / 2
    assert branched_gib(config, "float32", 10_000) == MOST
    assert branched_gib(config, "float32", 1) == least_branched_gib(config, "float32") == 0.75


def test_vllms_least_is_the_blocks_of_the_longest_sequence_and_one_that_it_keeps_aside() -> None:
    config = ShowoConfig()
    assert least_gib(config, "float32", config.head_dim) == 0.75 * 17 / 16  # 2,048 positions in blocks of 128
    assert least_gib(config, "float32", config.head_dim, 2) == 0.75 * 17 / 32


@given(st.integers(1, 48), st.integers(1, 64), st.sampled_from([16, 64, 128]), st.integers(1, 512))
def test_more_sequences_never_get_less(layers: int, heads: int, head: int, sequences: int) -> None:
    config = ShowoConfig(hidden_size=heads * head, num_hidden_layers=layers, num_attention_heads=heads)
    fewer, more, shared = (
        planned_gib(config, "bfloat16", count, head, processes)
        for count, processes in ((sequences, 1), (sequences + 1, 1), (sequences, 2))
    )
    assert LEAST <= shared <= fewer <= more
