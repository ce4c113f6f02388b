"""The baseline that a careful user of transformers has: batched decoding with a KV cache, batched images.

As in transformers' `generate`: candidates are separate rows from the prefill on (`num_return_sequences`),
prompts are padded on the left, the head reads last positions alone, keys and values are concatenated at
every step, and every row runs until the longest has ended. It is leaner than `generate`, which also keeps
records for each step.

Legend: B rows, T tokens of the padded prompts, S tokens so far, H heads, E head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.official_loop import pick
from engine.models.masks import mmu_mask
from engine.models.phi import run_layers
from engine.models.showo import Showo
from engine.records import CaptionSettings


class Cache:
    """Rotated keys and values of all layers, each [B, H, S, E]."""

    def __init__(self) -> None:
        self._stored: list[tuple[Tensor, Tensor]] = []
        self.mask: Tensor | None = None
        """What the coming pass may see, [B, 1, 1 or T, S]."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Adds the new keys and values, and attends to all."""
        keys, values = k.transpose(1, 2), v.transpose(1, 2)
        if layer < len(self._stored):
            keys = torch.cat((self._stored[layer][0], keys), 2)
            values = torch.cat((self._stored[layer][1], values), 2)
            self._stored[layer] = (keys, values)
        else:
            self._stored.append((keys, values))
        out = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=self.mask)
        return out.transpose(1, 2)


@torch.inference_mode()
def continue_texts(
    model: Showo,
    prompts: Sequence[Sequence[int]],
    settings: CaptionSettings,
    lengths: Sequence[int],
    generator: torch.Generator,
) -> list[list[int]]:
    """The tokens after each understanding prompt, without the end token, at most `lengths` of them."""
    words, device = model.config.vocabulary, model.device
    width = max(map(len, prompts))
    pads_B = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
    ids = torch.tensor([[words.pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    ids = ids.to(device)
    order, cache = torch.arange(width, device=device), Cache()
    seen_BT = order >= pads_B[:, None]
    # A pad sees itself, so that no row of the mask is empty.
    own = torch.eye(width, dtype=torch.bool, device=device)
    padded = bool(pads_B.any())
    cache.mask = (mmu_mask(ids, words.eoi) & seen_BT[:, None, None]) | own
    positions = (order - pads_B[:, None]).clamp(min=0)
    hidden = _run(model, ids, positions, cache)
    room = torch.tensor(list(lengths), device=device)
    found: list[Tensor] = []
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for step in range(max(lengths)):
        tokens = pick(model.token_logits(hidden[:, -1]), settings, generator)[:, 0]
        running = running & (tokens != words.eos)
        found.append(torch.where(running, tokens, -1))
        running = running & (step + 1 < room)
        if not running.any():
            break
        seen_BT = F.pad(seen_BT, (0, 1), value=True)
        cache.mask = seen_BT[:, None, None] if padded else None
        fed = torch.where(running, tokens, words.pad)[:, None]
        hidden = _run(model, fed, (width - pads_B + step)[:, None], cache)
    return [[token for token in row if token >= 0] for row in torch.stack(found, 1).tolist()]


def _run(model: Showo, ids: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """The last hidden state of each row after the final LayerNorm, [B, 1, D]."""
    cos, sin = model.rotary(positions)
    hidden = run_layers(model.layers, model.embed(ids), cos, sin, cache.attend)
    return model.final_norm(hidden[:, -1:])
