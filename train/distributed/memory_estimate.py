"""How much memory a rank's share of a training run takes: arithmetic, not measurement."""

from __future__ import annotations

import math
from pathlib import Path

from engine.checkpoints.weights import load_config
from engine.files.layout import WEIGHTS
from engine.files.tensors import tensor_layout
from engine.machine.kv_cache import TEXT_TOKENS
from engine.models.showo_config import ShowoConfig
from engine.records import Record
from train.config import TrainConfig
from train.distributed.deepspeed_config import shares

LOGITS = 256 * 2**20
"""Log-probs keep no more bytes of logits than about this (`train.logps.chunked`, `train.logps.fused`)."""
BUCKET, SUB_GROUP = 500_000_000, 1_000_000_000
"""DeepSpeed's defaults: elements that ZeRO reduces together, and that stage 3 updates at a time."""


class Sizes(Record):
    """Numbers of parameters."""

    model: int
    """All that the model computes with, adapters included."""
    trained: int
    """Those that an optimizer updates."""


class RankMemory(Record):
    """Bytes of one rank. Activations, buffers of communication and the libraries themselves are not in it."""

    parameters: int
    gradients: int
    masters: int
    """float32 copies, where the model does not compute with the optimizer's own."""
    moments: int
    """Adam's two, float32."""
    offloaded: bool
    """Whether masters and moments lie in the host's memory instead of the device's."""

    @property
    def device(self) -> int:
        """Bytes on the device."""
        kept = self.parameters + self.gradients
        return kept if self.offloaded else kept + self.masters + self.moments

    @property
    def host(self) -> int:
        """Bytes that offloading takes in the host's memory."""
        return self.masters + self.moments if self.offloaded else 0


class GpuMemory(Record):
    """Bytes on one rank's GPU in a step, without what CUDA itself takes of each process."""

    state: int
    """`RankMemory.device`."""
    passes: int
    """What a forward pass keeps, with the log-probs' buffers and the gradients on their way."""
    update: int
    """Adam's temporaries, when the passes' memory is free again."""
    bucket: int
    """ZeRO's buffer of gradients."""

    @property
    def most(self) -> int:
        """The most at any time."""
        return self.state + max(self.passes, self.update) + self.bucket


def model_sizes(checkpoint: Path, config: TrainConfig) -> Sizes:
    """Sizes of a checkpoint's model as `config` trains it; reads no weights.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    layout = tensor_layout(checkpoint / WEIGHTS)
    count = sum(math.prod(shape) for shape, _ in layout.values())
    if not config.lora_rank:
        return Sizes(model=count, trained=count)
    adapters = _adapter_size(load_config(checkpoint), config)
    return Sizes(model=count + adapters, trained=adapters)


def _adapter_size(model: ShowoConfig, config: TrainConfig) -> int:
    wide, narrow = model.intermediate_size, model.hidden_size
    sums = {name: narrow + (wide if name in ("fc1", "fc2") else narrow) for name in config.lora_targets}
    return model.num_hidden_layers * config.lora_rank * sum(sums.values())


def activation_bytes(model: ShowoConfig, config: TrainConfig, ranks: int) -> int:
    """What one pass of one rank keeps for its backward pass, about, logits included."""
    rows = sum(config.rows_of_sample) * shares(config, ranks)[0]
    longest = max(model.prefix_length, model.num_image_tokens + model.max_text_len) + TEXT_TOKENS
    width = 2 if config.dtype == "bfloat16" else 4
    # Of each block: its input, normed, query, key, value, what the norms and rotations keep, context and
    # output, and of the MLP both sides of its activation.
    block = (14 * model.hidden_size + 2 * model.intermediate_size) * width
    kept = model.num_hidden_layers * (model.hidden_size * width if config.gradient_checkpointing else block)
    once = block if config.gradient_checkpointing else 0
    tokens = rows * longest
    return tokens * (kept + once) + min(tokens * model.vocab_size * 4, LOGITS)


def rank_memory(sizes: Sizes, config: TrainConfig, ranks: int, offloaded: bool) -> RankMemory:
    """One rank's share, by ZeRO's rules (arXiv 1910.02054): each stage shares one more kind of state."""
    wide = 4
    narrow = 2 if config.dtype == "bfloat16" else wide
    stage = config.zero_stage
    shared = [ranks if stage >= least else 1 for least in (3, 2, 1)]
    # In float32 stage 0 and a stage 3 that keeps its state on the device update the parameters themselves.
    own_copy = config.dtype == "bfloat16" or stage in (1, 2) or (stage == 3 and offloaded)
    return RankMemory(
        parameters=-(-sizes.model * narrow // shared[0]),
        gradients=-(-sizes.trained * wide // shared[1]),
        masters=-(-sizes.trained * wide // shared[2]) if own_copy else 0,
        moments=-(-sizes.trained * 2 * wide // shared[2]),
        offloaded=offloaded,
    )


def gpu_memory(model: ShowoConfig, sizes: Sizes, config: TrainConfig, ranks: int) -> GpuMemory:
    """One rank's GPU, where the settings put their state: 1.3B fits a card of 80 GB in either dtype."""
    offloaded, stage = config.offload != "none", config.zero_stage
    width = 2 if config.dtype == "bfloat16" else 4
    # Of head and embedding, the largest: in the model's type, until ZeRO has taken them.
    gradients = 2 * model.vocab_size * model.hidden_size * width
    updated = -(-sizes.trained // (ranks if stage else 1))
    if stage == 3:
        updated = min(updated, SUB_GROUP)
    return GpuMemory(
        state=rank_memory(sizes, config, ranks, offloaded).device,
        passes=activation_bytes(model, config, ranks) + gradients,
        # torch's foreach AdamW makes one copy, the roots of the second moments.
        update=0 if offloaded else 4 * updated,
        bucket=BUCKET * width if stage else 0,
    )
