"""Attention of many continuations of few images: a stem's keys are read once for all that grew from it.

Legend: G stems, T tokens of a stem, R rows (continuations that run), C rows of the fullest stem, S tokens
since the stem, H heads, E head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROWTH = 16
"""Tokens by which the rows' own keys and values grow."""

KeysValues = list[tuple[Tensor, Tensor]]


class BranchCache:
    """Keys and values of stems, each [G, H, T, E] in a layer, and of what R rows have added since."""

    def __init__(self, stems: KeysValues, stem_R: Tensor) -> None:
        self._stems = stems
        self._own: KeysValues = []
        self._used = 0
        self._place(stem_R)

    def _place(self, stem_R: Tensor) -> None:
        """Gives every row a slot among those of its stem."""
        self._stem = stem_R
        counts = torch.bincount(stem_R)
        first = counts.cumsum(0) - counts
        order = stem_R.argsort(stable=True)
        self._slot = torch.empty_like(stem_R)
        self._slot[order] = torch.arange(len(stem_R)) - first[stem_R[order]]
        self._slots = int(counts.max())

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows but some, and the stems that none of them needs."""
        self._own = [(k[rows], v[rows]) for k, v in self._own]
        stem_R = self._stem[rows]
        needed, renumbered = stem_R.unique(return_inverse=True)
        if len(needed) < len(self._stems[0][0]):
            self._stems = [(k[needed], v[needed]) for k, v in self._stems]
            stem_R = renumbered
        self._place(stem_R)

    def step(self) -> None:
        """Makes room for one more token of every row."""
        self._used += 1
        if not self._own:
            heads, size = self._stems[0][0].shape[1], self._stems[0][0].shape[3]
            shape = (len(self._stem), heads, 0, size)
            self._own = [(k.new_empty(shape), v.new_empty(shape)) for k, v in self._stems]
        if self._used > self._own[0][0].shape[2]:
            self._own = [(_grown(k), _grown(v)) for k, v in self._own]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The newest token of every row, [R, 1, H, E], against its stem and its own past.

        Softmax over both parts is the two parts' softmaxes weighted by their sums of exponentials.
        """
        keys, values = self._own[layer]
        keys[:, :, self._used - 1], values[:, :, self._used - 1] = k[:, 0], v[:, 0]
        q = q[:, 0]
        shared, shared_sum = self._of_stems(layer, q)
        own, own_sum = _attention(q[:, :, None], keys[:, :, : self._used], values[:, :, : self._used])
        weight = torch.sigmoid(shared_sum - own_sum[..., 0])[..., None].to(own.dtype)
        return torch.lerp(own[:, :, 0], shared, weight)[:, None]

    def _of_stems(self, layer: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of rows [R, H, E] to their stems, and the logarithm of its sum of exponentials [R, H]."""
        keys, values = self._stems[layer]
        grouped = q.new_zeros(len(keys), keys.shape[1], self._slots, keys.shape[3])
        grouped[self._stem, :, self._slot] = q
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, total = flash(grouped, keys, values)
        return out[self._stem, :, self._slot], total[self._stem, :, self._slot]


def _attention(q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of [R, H, 1, E] to [R, H, S, E], and the logarithm of its sum of exponentials [R, H, 1]."""
    scores = torch.matmul(q, keys.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    return torch.matmul(scores.softmax(-1).to(values.dtype), values), scores.logsumexp(-1)


def _grown(x: Tensor) -> Tensor:
    rows, heads, length, size = x.shape
    larger = x.new_empty(rows, heads, length + GROWTH, size)
    larger[:, :, :length] = x
    return larger
