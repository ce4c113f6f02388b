"""What cases compare, and a line of the parity table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from engine.records import Record

EXACT = 0.0
"""The tolerance of ids and masks."""
Comparisons = Iterator[tuple[str, object, object, float]]
"""What a case yields: what is compared, our values, the stored ones, the tolerance."""


class Difference(Record):
    """The largest difference between stored values and ours."""

    case: str
    what: str
    largest: float
    """Absolute; for ids and masks the number of places that differ."""
    tolerance: float

    @property
    def passes(self) -> bool:
        """Whether it is within its tolerance; NaN is not."""
        return self.largest <= self.tolerance


def difference(case: str, what: str, found: object, stored: object, tolerance: float) -> Difference:
    """Compares; a shape that differs is an infinite difference."""
    ours, theirs = _tensor(found), _tensor(stored)
    if ours.shape != theirs.shape:
        largest = float("inf")
    elif tolerance == EXACT:
        largest = float((ours != theirs).sum())
    else:
        largest = (ours.double() - theirs.double()).abs().max().item() if ours.numel() else 0.0
    return Difference(case=case, what=what, largest=largest, tolerance=tolerance)


def _tensor(values: object) -> Tensor:
    return values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
