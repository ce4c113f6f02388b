"""Show-o's attention rules as boolean masks, True = may attend.

Legend: B batch, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def t2i_mask(ids: Tensor, pad: int, soi: int, eoi: int) -> Tensor:
    """Text to image, [B, 1, T, T]: text causal, soi..eoi see the text and all of themselves, pads unseen.

    ids [B, T] with one image a row. A padding position sees itself alone, so that no row is empty.
    """
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    order = torch.arange(length, device=ids.device)
    start = (ids == soi).int().argmax(1)[:, None]
    stop = (ids == eoi).int().argmax(1)[:, None]
    inside = (order >= start) & (order <= stop)
    mask = causal | (inside[:, :, None] & inside[:, None, :])
    mask = mask & (ids != pad)[:, None, :]
    # A row without anything to see would be NaN after the softmax.
    mask = mask | torch.eye(length, dtype=torch.bool, device=ids.device)
    return mask[:, None]


def feature_mask(length: int, start: int, count: int, device: torch.device | None = None) -> Tensor:
    """Understanding of CLIP features, [1, 1, T, T]: causal, and all see the `count` features from `start`.

    The system prompt before the features sees them too, but of itself only what is past.
    """
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    mask[:, start : start + count] = True
    return mask[None, None]


def mmu_mask(ids: Tensor, eoi: int) -> Tensor:
    """Understanding, [B, 1, T, T]: everything up to the first eoi sees itself both ways, then causal.

    Right padding needs no rule: no earlier position can see it.
    """
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    order = torch.arange(length, device=ids.device)
    prefix = order[None, :] <= (ids == eoi).int().argmax(1)[:, None]
    return (causal | prefix[:, None, :])[:, None]
