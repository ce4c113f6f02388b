"""Items as `hermes inspect` shows them: candidates, what became of them, and what the oracle sees."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from curate.evaluation.agreement import Answers, Decode, Judged, judge_item
from curate.store.outcomes import QuarantinedRow
from curate.store.overview import ItemMarks, item_marks, read_preferences, sampled_items
from curate.store.shards import read_outcomes
from engine.errors import DataError
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


def inspect_items(
    folder: Path, items: Sequence[Candidates], oracle: Decode | None
) -> Iterator[InspectedItem]:
    """The items with their preferences; `oracle` decodes images where the pixel oracle can judge them."""
    wanted = {item.id for item in items}
    preferences = {one.id: one for one in read_preferences(folder) if one.id in wanted}
    for item in items:
        preference = preferences.get(item.id)
        judged = judge_item(item, None, oracle) if oracle else None
        yield InspectedItem(
            item=item,
            preference=preference,
            marks=item_marks(preference, item.round) if preference else ItemMarks(),
            oracle=judged.oracle if judged else (),
            oracle_scores=judged.truth if judged and item.questions else (),
        )


def judged_items(folder: Path, oracle: Decode) -> Iterator[Judged]:
    """Every item of a curation, as the judge of its candidates and the oracle see it."""
    pairs = {one.id: one.images for one in read_preferences(folder)}
    for item in sampled_items(folder):
        yield judge_item(item, pairs.pop(item.id, None), oracle)


def find_item(folder: Path, id_: str) -> Candidates:
    """The item of that id.

    Raises:
        DataError: it is quarantined, or there is none; names those of similar ids.
    """
    known: list[str] = []
    for one in read_outcomes(folder):
        if isinstance(one, QuarantinedRow):
            if one.id == id_:
                raise DataError(f"item {id_!r} is quarantined ({one.where}): {one.reason}")
        elif one.item.id == id_:
            return one.item
        else:
            known.append(one.item.id)
    near = difflib.get_close_matches(id_, known, n=3, cutoff=0.5)
    near += [other for other in known if id_ in other and other not in near][: 3 - len(near)]
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "leave out --item to list the items"
    raise DataError(f"item {id_!r} is not among the {len(known)} of {folder}; {advice}")
