"""What changed between two measurements of the gap, paired by item.

Every round of a run is measured on the same held-out items with the same seeds, so most of what makes an item
easy or hard is on both sides of a difference and cancels out.
"""

from __future__ import annotations

import msgspec

from curate.evaluation.clustered import Estimate, Ratio, contrast
from curate.evaluation.records import EvalOrigin, GapReport, ItemScore
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
    if moved := origin_differences(before.origin, after.origin):
        return f"{moved}; `hermes eval` measures what is not of this run"
    if before.judge != after.judge:
        return f"their judges differ ({before.judge}; {after.judge})"
    if len(_common(before, after)) < 2:
        return "they have fewer than two items in common"
    return ""


def origin_differences(before: EvalOrigin | None, after: EvalOrigin | None) -> str:
    """How two measurements were made of other things; empty where they were not."""
    if before is None or after is None:
        return "" if before is after else "one of them does not say what it was made of"
    theirs, ours = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    moved = [f"{name} {theirs[name]!r} and {ours[name]!r}" for name in ours if theirs[name] != ours[name]]
    return f"they are of other {', '.join(moved)}" if moved else ""


def paired_difference(before: GapReport, after: GapReport) -> Difference:
    """After minus before on the items that both measured.

    Raises:
        ValueError: `not_paired` says why.
    """
    if reason := not_paired(before, after):
        raise ValueError(reason)
    pairs = _common(before, after)
    und, gen = [], []
    earlier, later = zip(*pairs, strict=True)
    for weight, items in ((1.0, later), (-1.0, earlier)):
        und.append((weight, Ratio(tuple(one.und for one in items), tuple(one.und_asked for one in items))))
        gen.append((weight, Ratio(tuple(one.gen for one in items), tuple(one.gen_asked for one in items))))
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
