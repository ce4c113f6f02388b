"""What changed between two measurements of the gap, paired by item.

Every round of a run is measured on the same held-out items with the same seeds, so most of what makes an item
easy or hard is on both sides of a difference and cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence

from curate.evaluation.clustered import Estimate, Ratio, contrast
from curate.evaluation.records import GapReport, ItemScore
from engine.records import Record

_DECIDES = ("split", "seed", "images", "image", "answer")
"""Settings that two paired measurements have in common; another number of items leaves some in common."""


class Difference(Record):
    """A later measurement minus an earlier one. Errors are clustered by item."""

    items: int
    """That both measured."""
    und: Estimate
    gen: Estimate
    gap: Estimate


def not_paired(before: GapReport, after: GapReport) -> str:
    """Why two measurements cannot be paired; empty where they can."""
    if not (before.per_item and after.per_item):
        return "it was measured without keeping the items; `hermes eval` measures it again"
    differ = [name for name in _DECIDES if getattr(before.config, name) != getattr(after.config, name)]
    if differ:
        return f"they were measured with different settings ({', '.join(f'eval.{one}' for one in differ)})"
    if before.judge != after.judge:
        return f"their judges differ ({before.judge}; {after.judge})"
    if len(_common(before, after)) < 2:
        return "they have fewer than two items in common"
    return ""


def paired_difference(before: GapReport, after: GapReport) -> Difference:
    """After minus before on the items that both measured.

    Raises:
        ValueError: `not_paired` says why.
    """
    if reason := not_paired(before, after):
        raise ValueError(reason)
    pairs = _common(before, after)
    sides = [(_und(one), _gen(one)) for one in zip(*pairs, strict=True)]
    (und_before, gen_before), (und_after, gen_after) = sides
    und, gen = [(1.0, und_after), (-1.0, und_before)], [(1.0, gen_after), (-1.0, gen_before)]
    return Difference(
        items=len(pairs),
        und=contrast(*und),
        gen=contrast(*gen),
        gap=contrast(*und, *((-weight, one) for weight, one in gen)),
    )


def _common(before: GapReport, after: GapReport) -> list[tuple[ItemScore, ItemScore]]:
    """Items of which both asked the same number of questions."""
    earlier = {one.id: one for one in before.per_item}
    found = [(earlier[one.id], one) for one in after.per_item if one.id in earlier]
    return [
        (one, other)
        for one, other in found
        if (one.und_asked, one.gen_asked) == (other.und_asked, other.gen_asked)
    ]


def _und(items: Sequence[ItemScore]) -> Ratio:
    return Ratio(sums=tuple(one.und for one in items), counts=tuple(one.und_asked for one in items))


def _gen(items: Sequence[ItemScore]) -> Ratio:
    return Ratio(sums=tuple(one.gen for one in items), counts=tuple(one.gen_asked for one in items))
