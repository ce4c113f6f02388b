"""Pretraining examples as tensors: one text-to-image row and one understanding row for each image.

The understanding row holds the image once and all its texts as branches that see the image and
themselves, never each other, each at the positions it has when it stands alone. So an image's prefix is
paid for once, and the model cannot tell the row from separate sequences.

Legend: B images, T tokens of a text-to-image row, U tokens of an understanding row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.models.showo_vocabulary import Vocabulary
from engine.records import Record
from train.data.batch import IGNORE


class PretrainExample(Record):
    """One image with everything that is said of it, as ids."""

    codes: tuple[int, ...]
    caption: tuple[int, ...]
    texts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """(prompt ids, completion ids): a caption prompt with its caption, and questions with answers."""
    drill: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """The same of what is learned last; phases may show more of these."""


def segment_mask(segments: Tensor) -> Tensor:
    """[B, 1, U, U]: segment 0 (the image) sees itself, a branch sees the image and its own past."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    mask = (key == 0) | ((query == key) & causal)
    return (mask | torch.eye(length, dtype=torch.bool))[:, None]


def t2i_rows(
    examples: Sequence[PretrainExample],
    vocabulary: Vocabulary,
    max_text_len: int,
    drop_text: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """ids, positions and labels [B, T] with a cosine-distributed share of the codes masked."""
    drops = torch.rand(len(examples), generator=generator) < drop_text
    texts = [
        vocabulary.t2i_text(() if drop else example.caption, max_text_len)
        for example, drop in zip(examples, drops.tolist(), strict=True)
    ]
    width = max(map(len, texts))
    codes = torch.tensor([example.codes for example in examples])
    share = torch.cos(torch.rand(len(examples), generator=generator) * math.pi / 2)
    count = (codes.shape[1] * share).round().clamp(min=1)
    order = torch.rand(codes.shape, generator=generator).argsort(1).argsort(1)
    masked = order < count[:, None]
    image = codes + vocabulary.code_offset
    rows, labels = [], []
    for text, ids, is_masked in zip(texts, image, masked, strict=True):
        seen = torch.where(is_masked, vocabulary.mask, ids).tolist()
        pads = [vocabulary.pad] * (width - len(text))
        rows.append([*pads, *text, vocabulary.soi, *seen, vocabulary.eoi])
        label = torch.where(is_masked, ids, IGNORE).tolist()
        labels.append([*[IGNORE] * (width + 1), *label, IGNORE])
    ids = torch.tensor(rows)
    positions = torch.arange(ids.shape[1]) + (max_text_len + 1 - width)
    return ids, positions, torch.tensor(labels)


def mmu_rows(
    examples: Sequence[PretrainExample], vocabulary: Vocabulary
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, positions, segments and next-token labels [B, U]; padding has segment -1."""
    columns: list[list[list[int]]] = [[], [], [], []]
    for example in examples:
        ids = vocabulary.mmu_prefix(example.codes)
        start = len(ids)
        row = [ids, list(range(start)), [0] * start, [IGNORE] * start]
        for branch, (prompt, completion) in enumerate(example.texts, 1):
            text = [vocabulary.bos, *prompt, *completion]
            row[0] += text
            row[1] += range(start, start + len(text))
            row[2] += [branch] * len(text)
            row[3] += [IGNORE] * len(prompt) + [*completion, vocabulary.eos]
        for column, values in zip(columns, row, strict=True):
            column.append(values)
    width = max(map(len, columns[0]))
    fills = (vocabulary.pad, 0, -1, IGNORE)
    ids_BU, positions_BU, segments_BU, labels_BU = (
        torch.tensor([row + [fill] * (width - len(row)) for row in column])
        for column, fill in zip(columns, fills, strict=True)
    )
    return ids_BU, positions_BU, segments_BU, labels_BU
