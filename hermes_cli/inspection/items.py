"""Items as `hermes inspect` shows them: candidates, what became of them, and what the oracle sees."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from curate.evaluation.agreement import Answers, Decode, Judged, judge_item
from curate.store.outcomes import Bad
from curate.store.overview import ItemMarks, item_marks, read_preferences, sampled_items
from curate.store.shards import read_outcomes
from engine.errors import DataError
from engine.records import Candidates, Preference, Record


class Shown(Record):
    """An item to be shown."""

    item: Candidates
    preference: Preference | None
    marks: ItemMarks
    oracle: tuple[Answers, ...] = ()
    """The oracle's answers, by image and question; none where it cannot judge."""
    oracle_scores: tuple[float, ...] = ()
    """The oracle's accuracy of each image."""


def sampled_by(shown: Shown) -> str:
    """Whose samples these are and how to sample them again; empty where there is no preference."""
    source = shown.preference.provenance if shown.preference else None
    if source is None:
        return ""
    return (
        f"round {shown.item.round} · weights {source.model} · {source.precision} · seed {source.seed} · "
        f"settings {source.origin}"
    )


def show(item: Candidates, preference: Preference | None, judged: Judged | None) -> Shown:
    """An item with what became of it."""
    return Shown(
        item=item,
        preference=preference,
        marks=item_marks(preference, item.round) if preference else ItemMarks(),
        oracle=judged.oracle if judged else (),
        oracle_scores=judged.truth if judged and item.questions else (),
    )


def shown_items(folder: Path, items: list[Candidates], oracle: Decode | None) -> Iterator[Shown]:
    """The items with their preferences; `oracle` decodes images where the pixel oracle can judge them."""
    wanted = {item.id for item in items}
    preferences = {one.id: one for one in read_preferences(folder) if one.id in wanted}
    for item in items:
        judged = judge_item(item, None, oracle) if oracle else None
        yield show(item, preferences.get(item.id), judged)


def judged_items(folder: Path, oracle: Decode) -> Iterator[Judged]:
    """Every item of a curation, as critic and oracle judge it."""
    pairs = {one.id: one.images for one in read_preferences(folder)}
    for item in sampled_items(folder):
        yield judge_item(item, pairs.pop(item.id, None), oracle)


def first_items(folder: Path, count: int) -> list[Candidates]:
    """The first items of a curation."""
    return list(islice(sampled_items(folder), count))


def find_item(folder: Path, id_: str) -> Candidates:
    """The item of that id.

    Raises:
        DataError: it is quarantined, or there is none; names those of similar ids.
    """
    known: list[str] = []
    for one in read_outcomes(folder):
        if isinstance(one, Bad):
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
