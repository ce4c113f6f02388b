"""Paged attention with Show-o's bidirectional image prefix, exact.

`[mmu][soi] codes [eoi]` attends to itself in both directions, everything after it causally. CLIP features are
served first (`vllm_prompts`) and see all of `features [mmu] system [soi]`; everything after the features is
causal, so not all queries of this prefix see the whole of it.

vLLM's CPU kernel takes one causal flag a row, so a request whose queries reach into the prefix becomes two
rows of the same block table: the queries that see the whole prefix, with it as their sequence and causality
off, and the rest with the full sequence and causality on. Requests that only decode stay one row.

Every request this engine admits starts with an image. The prefix must be computed in one piece, because
its first tokens attend to its last: the engine turns chunked prefill off, and a cut raises here. A block
inside the prefix depends on later tokens of it, so requests must carry a cache salt of the whole image.

Legend: R requests, S rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)

from engine.errors import EngineError


@dataclass(frozen=True)
class Rows:
    """The rows that a batch becomes: where queries start, sequence lengths, request of each, causal flags."""

    query_start: Tensor
    """[S + 1] int32."""
    seq_lens: Tensor
    """[S] int32."""
    request: Tensor
    """[S] int64, the request whose block table the row uses."""
    causal: Tensor
    """[S] int32."""


def split_prefix(
    query_start: Tensor, seq_lens: Tensor, prefix: int, seeing: int | None = None
) -> Rows | None:
    """Rows for a batch of R requests, or None where no query lies inside a prefix (plain causal attention).

    query_start [R + 1] and seq_lens [R], as vLLM gives them: a request's queries are the last ones of its
    sequence so far. Queries stay in their order. The first `seeing` tokens of a
    request (all of the prefix where None) see the whole prefix; the others are causal.

    Raises:
        EngineError: a request's queries start inside the prefix and end there.
    """
    queries = (query_start[1:] - query_start[:-1]).long()
    first = seq_lens.long() - queries
    inside = ((prefix if seeing is None else seeing) - first).clamp(min=0)
    if not bool((inside > 0).any()):
        return None
    cut = (inside > 0) & (seq_lens < prefix)
    if bool(cut.any()):
        lengths = seq_lens[cut].tolist()
        raise EngineError(
            f"a prompt was cut at {lengths} tokens, inside the image prefix of {prefix}: every request must"
            " start with a whole image, and chunked prefill must be off"
        )
    rest = queries - inside
    counts = torch.stack((inside, rest), 1).flatten()
    ends = torch.stack((torch.full_like(queries, prefix), seq_lens.long()), 1).flatten()
    request = torch.arange(len(queries)).repeat_interleave(2)
    causal = torch.tensor([0, 1], dtype=torch.int32).repeat(len(queries))
    kept = counts > 0
    start = torch.cat((torch.zeros(1, dtype=torch.long), counts[kept].cumsum(0)))
    return Rows(start.int(), ends[kept].int(), request[kept], causal[kept])


class ImagePrefixBuilder(CPUAttentionMetadataBuilder):
    """Builds the metadata of a batch after `split_prefix`; the model's config gives the prefix length."""

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> CPUAttentionMetadata:
        common = common_attn_metadata
        config = self.vllm_config.model_config.hf_config
        rows = split_prefix(
            common.query_start_loc, common.seq_lens, config.prefix_length, config.prefix_queries
        )
        if rows is not None:
            common = replace(
                common,
                query_start_loc=rows.query_start,
                query_start_loc_cpu=rows.query_start,
                seq_lens=rows.seq_lens,
                num_reqs=len(rows.seq_lens),
                block_table_tensor=common.block_table_tensor[rows.request].contiguous(),
                causal=rows.causal,
            )
        return super().build(common_prefix_len, common, fast_build)


class ImagePrefixBackend(CPUAttentionBackend):
    """vLLM's CPU attention with `ImagePrefixBuilder`."""

    @staticmethod
    def get_builder_cls() -> type[ImagePrefixBuilder]:
        return ImagePrefixBuilder
