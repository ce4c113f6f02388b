"""Items as `hermes inspect` shows them: candidates, what became of them, and what the oracle sees."""

from __future__ import annotations

from curate.evaluation.agreement import Answers, Decode
from curate.store.overview import ItemMarks
from engine.records import Candidates, Preference, Record
from hermes_cli.pages.pictures import EmbeddedPicture, embed


class InspectedItem(Record):
    """An item with its preference and what the oracle says of its images."""

    item: Candidates
    preference: Preference | None
    marks: ItemMarks
    oracle: tuple[Answers, ...] = ()
    """The oracle's answers, by image and question; none where it cannot judge."""
    oracle_scores: tuple[float, ...] = ()
    """The oracle's accuracy of each image."""

    @property
    def sampled_by(self) -> str:
        """Whose samples these are and how to sample them again; empty where there is no preference."""
        source = self.preference.provenance if self.preference else None
        if source is None:
            return ""
        return (
            f"round {self.item.round} · weights {source.model} · {source.precision} · seed {source.seed} · "
            f"settings {source.origin}"
        )

    @property
    def flags(self) -> list[str]:
        """What the choice of items on a page goes by."""
        images = self.marks.images
        flags = ["pair-of-images" if images.paired else "no-pair-of-images"]
        flags += ["pair-of-captions"] if self.marks.captions.paired else []
        truth = dict(zip((one.index for one in self.item.images), self.oracle_scores, strict=False))
        if images.win in truth and images.lose in truth and truth[images.win] <= truth[images.lose]:
            flags.append("differs")
        return flags


class ItemCard(Record):
    """An item with its pictures."""

    inspected: InspectedItem
    real: EmbeddedPicture
    """The real image as the tokenizer gives it back."""
    candidates: tuple[EmbeddedPicture, ...]
    earlier_loser: EmbeddedPicture | None
    """The loser of the image pair, where it was sampled in an earlier round."""


def item_card(inspected: InspectedItem, decode: Decode) -> ItemCard:
    """The card of an item on a page."""
    item, marks = inspected.item, inspected.marks.images
    pair = inspected.preference.images if inspected.preference else None
    earlier = [pair.lose.codes] if pair and marks.paired and marks.lose is None else []
    pixels = decode([item.image_codes, *(one.codes for one in item.images), *earlier])
    real, *others = map(embed, pixels)
    loser = others.pop() if earlier else None
    return ItemCard(inspected=inspected, real=real, candidates=tuple(others), earlier_loser=loser)
