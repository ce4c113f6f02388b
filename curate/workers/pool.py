"""Who samples the chunks of a curation: this process, or whoever else implements `Pool`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from curate.store.outcomes import Outcome
from engine.metering.counters import EngineWork
from engine.records import Item, Record


class NumberedItem(Record):
    """A row that waits to be sampled."""

    number: int
    """Place among the rows that are curated."""
    where: str
    item: Item


Chunk = Sequence[NumberedItem]


class Sampler(Protocol):
    """Turns rows into outcomes, one for each, in their order."""

    @property
    def work(self) -> EngineWork:
        """What its engine has done so far."""
        ...

    def sample(self, rows: Chunk) -> list[Outcome]:
        """Samples and scores some rows; what an item is given does not depend on the others."""
        ...


class Pool(Protocol):
    """Samples chunks, in any order."""

    @property
    def work(self) -> EngineWork:
        """What all its engines have done so far."""
        ...

    @property
    def engines(self) -> int:
        """How many engines work at once."""
        ...

    def run(self, chunks: Iterable[Chunk]) -> Iterator[list[Outcome]]:
        """The outcomes of every chunk as they come; draws chunks only as it needs them."""
        ...


class LocalPool:
    """One sampler in this process."""

    engines = 1

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    @property
    def work(self) -> EngineWork:
        return self._sampler.work

    def run(self, chunks: Iterable[Chunk]) -> Iterator[list[Outcome]]:
        for chunk in chunks:
            yield self._sampler.sample(chunk)
