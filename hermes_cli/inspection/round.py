"""The round that `hermes inspect` looks into: where it lies, who scored it, and a way to its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from curate.store.shards import FOLDER
from engine.errors import CheckpointError, ConfigError, StageOrderError
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import stored_settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curate.evaluation.agreement import Agreement
    from engine.records import Candidates
    from engine.tokenizers.codec import Pixels
    from hermes_cli.inspection.items import InspectedItem


class InspectedRound:
    """A curated round of a run; opens nothing to write.

    Raises:
        DataError: what the curation was made from cannot be read.
    """

    def __init__(self, run: RunFolder, number: int) -> None:
        from curate.store.origin import read_origin

        self.run, self.number = run, number
        self.folder = run.curation(number)
        self.origin = read_origin(self.folder)

    @property
    def oracle(self) -> bool:
        """Whether the pixel oracle can judge: it knows the embedded world's own questions alone."""
        from curate.sources.embedded import SHAPES

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
        from engine.tokenizers.codec import Pixels

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
        from curate.evaluation.agreement import agreement
        from hermes_cli.inspection.items import judged_items

        judged = []
        for one in judged_items(self.folder, self.decode):
            judged.append(one)
            hears(1)
        return agreement(judged)

    def first(self, count: int) -> list[InspectedItem]:
        """The first items."""
        from curate.store.overview import sampled_items

        return self._inspect(list(islice(sampled_items(self.folder), count)))

    def one(self, id_: str) -> InspectedItem:
        """The item of that id.

        Raises:
            DataError: there is none.
        """
        from hermes_cli.inspection.items import find_item

        return self._inspect([find_item(self.folder, id_)])[0]

    def _inspect(self, items: list[Candidates]) -> list[InspectedItem]:
        from hermes_cli.inspection.items import inspect_items

        return list(inspect_items(self.folder, items, self.decode if self.oracle else None))


def open_run(root: Path, whole: bool = False) -> RunFolder:
    """The run in a folder, to look at; `whole` wants settings or a round in it.

    Raises:
        ConfigError: there is no such run, or its settings cannot be read.
    """
    begun = (root / "run.json").is_file() or any(root.glob("round-*"))
    if not root.is_dir() or (whole and not begun):
        raise ConfigError(f"{root}: no run in this folder; `hermes curate --run {root}` makes one")
    return RunFolder(root, stored_settings(root / "run.json").model)


def open_round(root: Path, number: int | None) -> InspectedRound:
    """Round `number` of a run, the latest curated one for None.

    Raises:
        ConfigError: there is no such run, or its settings cannot be read.
        StageOrderError: the round is not curated.
    """
    run = open_run(root)
    curated = sorted(
        int(folder.name.removeprefix("round-"))
        for folder in root.glob("round-*")
        if (folder / "curate" / FOLDER).is_dir() and folder.name.removeprefix("round-").isdecimal()
    )
    if not curated:
        raise StageOrderError(f"no round is curated in {root}: run `hermes curate --run {root}` first")
    if number is not None and number not in curated:
        raise StageOrderError(
            f"round {number} is not curated in {root}, {', '.join(map(str, curated))} is: "
            f"run `hermes curate --run {root} --round {number}` first"
        )
    return InspectedRound(run, number or curated[-1])
