"""Show-o's image sampler: mask-predict over static batches of canvases, with classifier-free guidance.

Every canvas takes the same number of steps, so a batch never changes shape. The text prefix sees only
itself: its keys and values are computed once a prompt, at the positions that it has behind its padding, and
serve all steps of all candidates. A canvas `[soi] codes [eoi]` sees the prefix and all of itself.

Legend: B canvases, N image tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from engine.errors import EngineError
from engine.metering.stopwatch import FORWARD
from engine.records import PaintSettings
from engine.samplers.canvas_batches import Batches, HiddenBatches, Kept, Slot, StaticBatches
from engine.samplers.painting import CanvasModel
from engine.samplers.text_prefix import text_prefixes


@torch.inference_mode()
def paint(
    model: CanvasModel,
    texts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    settings: PaintSettings,
    batch: int,
    kept: Kept | None = None,
    static: bool | None = None,
) -> list[list[list[int]]]:
    """Codes of every candidate of every prompt: [prompt][candidate][N].

    `texts` are prompts as text ids, without specials; `seeds` holds a seed for each candidate of each.
    `kept` is what earlier calls have left. `static` chooses the form of the batches, which is the device's
    where it is None. All random numbers of a candidate come from its own generator, so it does not depend on
    the batch. A batch that does not fit into the memory is halved, and stderr says so.

    Raises:
        EngineError: the schedule is not known, or not even one image fits into the memory.
    """
    kept = kept or Kept()
    if static is None:
        static = model.device.type == "cuda"
    batch = min(batch, kept.most)
    if settings.guidance and kept.empty is None:
        kept.empty = text_prefixes(model, [()])
    fewest = max(1, min(map(len, seeds), default=1))
    batches: Batches = HiddenBatches(model, settings, kept)
    if static:
        batches = StaticBatches(model, settings, kept, batch, fewest)
    painted: list[list[list[int]]] = [[] for _ in texts]
    # A replayed step starts no clock of its own: on a GPU this one runs through all steps.
    with FORWARD if static else nullcontext():
        for first in range(0, len(texts), batches.prompts):
            window = slice(first, first + batches.prompts)
            batches.hold(texts[window])
            todo = [(prompt, seed) for prompt, row in enumerate(seeds[window]) for seed in row]
            found: list[Tensor] = []
            done = 0
            while done < len(todo):
                part = todo[done : done + batches.together(todo[done:], batch)]
                slots = [*part, *[part[-1]] * (batch - len(part))] if static else part
                codes_BN = _fitting(batches, slots, settings.steps, model, kept)
                if codes_BN is None:
                    batch = kept.most
                else:
                    found.append(codes_BN[: len(part)])
                    done += len(part)
            rows = torch.cat(found).tolist() if found else []
            for (prompt, _), codes in zip(todo, rows, strict=True):
                painted[first + prompt].append(codes)
    return painted


def _fitting(
    batches: Batches, slots: Sequence[Slot], steps: int, model: CanvasModel, kept: Kept
) -> Tensor | None:
    """Codes [B, N] of some candidates; None where they do not fit into the memory, and from then on fewer."""
    # Before anything that waits for the batch before.
    tokens = model.config.num_image_tokens
    uniform = torch.stack([randoms(seed, steps, tokens) for _, seed in slots], 2)
    try:
        return batches.painted([prompt for prompt, _ in slots], uniform)
    except torch.OutOfMemoryError as error:
        if len(slots) == 1 or not kept.halves:
            raise EngineError(
                f"painting {len(slots)} images at a time does not fit into the GPU's memory; lower"
                " engine.kv_cache_gib, or end what else uses the GPU"
            ) from error
    # Only here are the tensors of the failed batch free: the error held them.
    kept.most, kept.step = len(slots) // 2, None
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    print(
        f"painting {len(slots)} images at a time does not fit into the GPU's memory;"
        f" going on with {kept.most}",
        file=sys.stderr,
    )
    return None


def randoms(seed: int, steps: int, tokens: int) -> Tensor:
    """All uniform numbers of one candidate, [steps, 2, N]: for the draw and for the confidence noise."""
    return torch.rand(steps, 2, tokens, generator=torch.Generator().manual_seed(seed))
