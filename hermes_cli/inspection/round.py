"""The round that `hermes inspect` looks into: where it lies, who scored it, and a way to its pictures."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.evaluation.agreement import Agreement, agreement, judge_item
from curate.sources.embedded import SHAPES
from curate.store.origin import read_origin
from curate.store.outcomes import QuarantinedRow
from curate.store.overview import ItemMarks, item_marks, read_preferences, sampled_items
from curate.store.shards import FOLDER, read_outcomes
from engine.errors import CheckpointError, DataError, StageOrderError
from engine.records import Candidates
from engine.tokenizers.codec import Pixels
from hermes_cli.inspection.items import InspectedItem
from hermes_cli.run.folder import RunFolder, open_run


class InspectedRound:
    """A curated round of a run; opens nothing to write.

    Raises:
        DataError: what the curation was made from cannot be read.
    """

    def __init__(self, run: RunFolder, number: int) -> None:
        self.run, self.number = run, number
        self.folder = run.curation(number)
        self.origin = read_origin(self.folder)

    @property
    def oracle(self) -> bool:
        """Whether the pixel oracle can judge: it knows the embedded world's own questions alone."""
        return self.origin is not None and self.origin.data == SHAPES and not self.origin.questions

    @property
    def scored_by(self) -> str:
        """Who scored the images; empty where nothing was sampled here."""
        if self.origin is None:
            return ""
        match self.origin.judge:
            case None:
                return "self-VQA"
            case {"model": model}:
                return f"judge {model}"
            case _:
                return "the judge"

    @property
    def title(self) -> str:
        """Of the page."""
        return f"{self.run.root.resolve().name}, round {self.number}"

    @property
    def about(self) -> str:
        """What decided the candidates, in a line."""
        one = self.origin
        return f"data {one.data} · n {one.n} · seed {one.seed} · weights {one.model}" if one else ""

    @cached_property
    def _pixels(self) -> Pixels:
        # The base's: rounds train what uses its codes, never the tokenizer.
        return Pixels(self.run.checkpoint(0) / "image_tokenizer")

    def decode(self, codes: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """Codes of B images -> uint8 [B, H, W, 3].

        Raises:
            CheckpointError: the model's image tokenizer is missing, or does not know these codes.
        """
        try:
            return self._pixels.images(codes)
        except (RuntimeError, IndexError) as error:
            raise CheckpointError(
                f"{self.folder}: its codes do not fit the image tokenizer of {self.run.checkpoint(0)}; "
                "has run.json been changed to another model?"
            ) from error

    def agreement(self, hears: Callable[[int], None] = lambda done: None) -> Agreement | None:
        """How far the judge agrees with the pixel oracle, on all items; `hears` of each that is judged."""
        pairs = {one.id: one.images for one in read_preferences(self.folder)}
        judged = []
        for item in sampled_items(self.folder):
            judged.append(judge_item(item, pairs.pop(item.id, None), self.decode))
            hears(1)
        return agreement(judged)

    def first(self, count: int) -> list[InspectedItem]:
        """The first items."""
        return self._inspect(list(islice(sampled_items(self.folder), count)))

    def one(self, id_: str) -> InspectedItem:
        """The item of that id.

        Raises:
            DataError: it is quarantined, or there is none; names those of similar ids.
        """
        known: list[str] = []
        for one in read_outcomes(self.folder):
            if isinstance(one, QuarantinedRow):
                if one.id == id_:
                    raise DataError(f"item {id_!r} is quarantined ({one.where}): {one.reason}")
            elif one.item.id == id_:
                return self._inspect([one.item])[0]
            else:
                known.append(one.item.id)
        near = difflib.get_close_matches(id_, known, n=3, cutoff=0.5)
        near += [other for other in known if id_ in other and other not in near][: 3 - len(near)]
        advice = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else "leave out --item to list the items"
        )
        raise DataError(f"item {id_!r} is not among the {len(known)} of {self.folder}; {advice}")

    def _inspect(self, items: list[Candidates]) -> list[InspectedItem]:
        """The items with their preferences, and the oracle's answers where it can judge."""
        wanted = {item.id for item in items}
        preferences = {one.id: one for one in read_preferences(self.folder) if one.id in wanted}
        found = []
        for item in items:
            preference = preferences.get(item.id)
            judged = judge_item(item, None, self.decode) if self.oracle else None
            found.append(
                InspectedItem(
                    item=item,
                    preference=preference,
                    marks=item_marks(preference, item.round) if preference else ItemMarks(),
                    oracle=judged.oracle if judged else (),
                    oracle_scores=judged.truth if judged and item.questions else (),
                )
            )
        return found


def open_round(root: Path, number: int | None) -> InspectedRound:
    """Round `number` of a run, the latest curated one for None.

    Raises:
        ConfigError: there is no such run, or its settings cannot be read.
        StageOrderError: the round is not curated.
    """
    run = open_run(root)
    curated = [one for one in run.begun() if (run.curation(one) / FOLDER).is_dir()]
    if not curated:
        raise StageOrderError(f"no round is curated in {root}: run `hermes curate --run {root}` first")
    if number is not None and number not in curated:
        raise StageOrderError(
            f"round {number} is not curated in {root}, {', '.join(map(str, curated))} is: "
            f"run `hermes curate --run {root} --round {number}` first"
        )
    return InspectedRound(run, number or curated[-1])
