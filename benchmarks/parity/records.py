"""One line of the parity table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from engine.records import Record


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


Differences = Iterator[Difference]
"""What a case yields."""


def _tensor(values: object) -> Tensor:
    return values.cpu() if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))


def close(case: str, what: str, found: object, stored: object, tolerance: float) -> Difference:
    """Compares floats; a shape that differs is an infinite difference."""
    ours, theirs = _tensor(found).double(), _tensor(stored).double()
    if ours.shape != theirs.shape:
        return Difference(case=case, what=what, largest=float("inf"), tolerance=tolerance)
    return Difference(
        case=case,
        what=what,
        largest=(ours - theirs).abs().max().item() if ours.numel() else 0.0,
        tolerance=tolerance,
    )


def equal(case: str, what: str, found: object, stored: object) -> Difference:
    """Counts the places where ids or masks differ."""
    ours, theirs = _tensor(found), _tensor(stored)
    places = float("inf") if ours.shape != theirs.shape else float((ours != theirs).sum())
    return Difference(case=case, what=what, largest=places, tolerance=0.0)
