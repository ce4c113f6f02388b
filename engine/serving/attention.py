"""Paged attention with Show-o's bidirectional image prefix, exact, on CPUs and on GPUs.

`[mmu][soi] codes [eoi]` attends to itself in both directions, everything after it causally. CLIP features
are served first (`serving.prompts`) and see all of `features [mmu] system [soi]`; everything after the
features is causal, so not all queries of this prefix see the whole of it.

vLLM's CPU kernel and its Triton kernel take one causal flag a row, so a request whose queries reach into the
prefix becomes two rows of the same block table: the queries that see the whole prefix, with it as their
sequence and causality off, and the rest with the full sequence and causality on. Requests that only decode
stay one row.

The prefix must be computed in one piece, because its first tokens attend to its last: `serving.server` admits
only prompts with a whole image, and `serving.launch` sees to it that none is cut. A block inside the prefix
depends on later tokens of it, so requests must carry a cache salt of the whole image. Prompts shorter than
the prefix are vLLM's own, with which it warms up; they are causal.

Legend: R requests, S rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
)
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionMetadataBuilder
from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend, TritonAttentionMetadataBuilder

from engine.errors import CheckpointError, EngineError

LARGEST_HEAD = 512
"""Dimensions of a head, of which no kernel here takes more."""


@dataclass(frozen=True)
class Rows:
    """The rows that a batch becomes, on the CPU."""

    query_start: Tensor
    """[S + 1] int32."""
    seq_lens: Tensor
    """[S], as given: lengths of causal rows are upper bounds where those of the requests are."""
    request: Tensor
    """[S] int64, the request whose block table the row uses."""
    causal: Tensor
    """[S] bool."""


def split_prefix(
    query_start: Tensor, seq_lens: Tensor, prefix: int, seeing: int | None = None
) -> Rows | None:
    """Rows for a batch of R requests, or None where no query lies inside a prefix (plain causal attention).

    query_start [R + 1] and seq_lens [R] lie on the CPU, as vLLM gives them: a request's queries are the last
    ones of its sequence so far. Of a sequence that decodes an upper bound of its length will do. Queries stay
    in their order. The first `seeing` tokens of a request (all of the prefix where None) see the whole
    prefix; the others are causal, and so is all of a sequence shorter than the prefix. Requests without
    queries, with which vLLM fills batches up, get no row.
    """
    # A request's queries are numbers first, first + 1, ... of its sequence. Those below `seeing` lie inside.
    queries = (query_start[1:] - query_start[:-1]).long()
    first = seq_lens.long() - queries
    inside = ((prefix if seeing is None else seeing) - first).clamp(min=0).minimum(queries)
    # vLLM's own warm-up prompts: no image, so plain causal rows.
    inside[seq_lens < prefix] = 0
    if not bool(inside.any()):
        return None
    # Two rows a request: A sees the prefix and no more, both ways; B sees its whole sequence, causally.
    counts = torch.stack((inside, queries - inside), 1).flatten()
    ends = torch.stack((torch.full_like(seq_lens, prefix), seq_lens), 1).flatten()
    request = torch.arange(len(queries)).repeat_interleave(2)
    causal = torch.tensor([False, True]).repeat(len(queries))
    # No kernel takes a row without queries.
    kept = counts > 0
    start = torch.cat((torch.zeros(1, dtype=torch.long), counts[kept].cumsum(0)))
    return Rows(start.int(), ends[kept], request[kept], causal[kept])


class ImagePrefix(AttentionMetadataBuilder[Any]):
    """Builds the metadata of a batch after `split_prefix`; stands before a backend's own builder.

    Decides on vLLM's CPU copies, so that no step waits for the device.
    """

    # A graph of a batch with prompts would keep the rows of its capture, so decoding alone is captured.
    _cudagraph_support = AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE
    flags: ClassVar[torch.dtype]
    """The type in which the kernel takes causal flags."""

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> Any:
        return super().build(common_prefix_len, self._split(common_attn_metadata), fast_build)  # type: ignore[safe-super]

    def _split(self, common: CommonAttentionMetadata) -> CommonAttentionMetadata:
        # One query each: all decode, as a prompt's last token stands after its image. Captures are such.
        if common.max_query_len <= 1:
            return common
        config = self.vllm_config.model_config.hf_config
        prefix, bounds = config.prefix_length, common.seq_lens_cpu_upper_bound
        assert bounds is not None, "both of vLLM's runners give it"
        rows = split_prefix(common.query_start_loc_cpu, bounds, prefix, config.prefix_queries)
        if rows is None:
            return common
        # Lengths stay on the device: the CPU knows upper bounds only, of sequences that decode.
        device = common.seq_lens.device
        request, causal = (async_tensor_h2d(x, device) for x in (rows.request, rows.causal))
        return replace(
            common,
            query_start_loc=async_tensor_h2d(rows.query_start, device),
            query_start_loc_cpu=rows.query_start,
            seq_lens=common.seq_lens[request].where(causal, prefix),
            seq_lens_cpu_upper_bound=rows.seq_lens,
            num_reqs=len(rows.request),
            block_table_tensor=common.block_table_tensor[request],
            causal=causal.to(self.flags),
        )


class CpuPrefixBuilder(ImagePrefix, CPUAttentionMetadataBuilder):
    """On vLLM's CPU attention."""

    flags = torch.int32


class CpuPrefixBackend(CPUAttentionBackend):
    """vLLM's CPU attention with image prefixes."""

    @staticmethod
    def get_builder_cls() -> type[CpuPrefixBuilder]:
        return CpuPrefixBuilder


class TritonPrefixBuilder(ImagePrefix, TritonAttentionMetadataBuilder):
    """On vLLM's Triton attention."""

    flags = torch.bool

    def __init__(self, kv_cache_spec: Any, *others: Any) -> None:
        super().__init__(kv_cache_spec, *others)
        # vLLM sizes this by the model's heads; the kernel fills it by those that are cached, zeros included.
        shape = (*self.softmax_segm_output.shape[:-1], 1 << (kv_cache_spec.head_size - 1).bit_length())
        self.softmax_segm_output = self.softmax_segm_output.new_empty(shape)


class TritonPrefixBackend(TritonAttentionBackend):
    """vLLM's Triton attention with image prefixes."""

    @staticmethod
    def get_builder_cls() -> type[TritonPrefixBuilder]:
        return TritonPrefixBuilder


BACKENDS: dict[str, type[AttentionBackend]] = {"cpu": CpuPrefixBackend, "cuda": TritonPrefixBackend}


def prefix_backend(vllm_config: VllmConfig) -> type[AttentionBackend]:
    """The backend for vLLM's device, or the one that its `attention_config` names.

    vLLM itself checks no backend that a model brings.

    Raises:
        EngineError: none here is for that device or has that name, or it does not take the model's type.
    """
    asked, device = vllm_config.attention_config.backend, vllm_config.device_config.device_type
    named = {one.get_name(): one for one in BACKENDS.values()}
    backend = BACKENDS.get(device) if asked is None else named.get(asked.name)
    if backend is None:
        raise EngineError(
            f"no attention over image prefixes on {device if asked is None else asked.name};"
            f" there is {' and '.join(named)}, for CPUs and NVIDIA GPUs"
        )
    dtype: Any = vllm_config.model_config.dtype
    if not backend.supports_dtype(dtype):
        raise EngineError(f"{backend.get_name()} does not take {dtype}; set the engine's dtype to auto")
    return backend


def paged_head_size(backend: type[AttentionBackend], head: int) -> int:
    """The least head size that a backend takes and that has room for `head` dimensions.

    Zeros fill what is left: they add nothing to a dot product, and their outputs are cut off.

    Raises:
        CheckpointError: no size is large enough.
    """
    for size in range(head, LARGEST_HEAD + 1):
        if backend.supports_head_size(size):
            return size
    raise CheckpointError(f"heads of {head} dimensions are more than vLLM's {backend.get_name()} takes")
