"""The rows of a source that a store lacks, in chunks; what comes back is stored, full blocks are sealed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from curate.bad_rows import too_many_bad
from curate.config import CurateConfig
from curate.sources import DataRow, Source
from curate.store.outcomes import Outcome, QuarantinedRow
from curate.store.shards import ShardStore
from curate.workers.pool import Chunk, NumberedItem
from engine.errors import DataError

Progress = Callable[[int, str], None]
"""Hears how many more rows are done, and how fast."""


class MissingRows:
    """Walks a source once, block by block."""

    def __init__(self, store: ShardStore, source: Source, config: CurateConfig, progress: Progress) -> None:
        self._store, self._source, self._config, self._progress = store, source, config, progress
        self._missing: dict[int, int] = {}
        """Rows of a block that are not back yet."""
        self._bad, self._first = 0, ""
        self.rows = 0
        """Rows that were met so far."""
        self.questions_left_out: Counter[str] = Counter()
        """Reason -> questions of theirs."""

    def chunks(self) -> Iterator[Chunk]:
        """Chunks of rows to be sampled. Stores those that are bad by themselves.

        Raises:
            DataError: more rows are bad than the settings allow.
        """
        size = self._store.size
        for block, numbered in itertools.groupby(enumerate(self._source.rows()), lambda one: one[0] // size):
            rows = list(numbered)
            self.rows += len(rows)
            # Behind a colon stands what concerns one question.
            self.questions_left_out.update(why.partition(":")[0] for _, row in rows for why in row.dropped)
            done = self._done(block, rows)
            bad: list[Outcome] = []
            missing: list[NumberedItem] = []
            for number, row in rows:
                if number in done:
                    continue
                if row.item is None:
                    bad.append(QuarantinedRow(number=number, where=row.where, reason=row.reason))
                else:
                    missing.append(NumberedItem(number=number, where=row.where, item=row.item))
            self._missing[block] = len(bad) + len(missing)
            self._progress(len(rows) - self._missing[block], "")
            if self._missing[block] and self._store.is_sealed(block):
                self._store.reopen(block)
            elif not self._missing[block] and not self._store.is_sealed(block):
                # Killed between its last row and its seal.
                self._store.seal(block)
            self.take(bad)
            for start in range(0, len(missing), self._config.chunk):
                yield missing[start : start + self._config.chunk]
        self._judge(ended=True)

    def take(self, outcomes: Sequence[Outcome], note: str = "") -> None:
        """Stores outcomes of one block.

        Raises:
            DataError: more rows are bad than the settings allow, or the disk is full.
        """
        if not outcomes:
            return
        block = outcomes[0].number // self._store.size
        self._store.append(outcomes)
        self._missing[block] -= len(outcomes)
        if not self._missing[block]:
            self._store.seal(block)
        for one in outcomes:
            if isinstance(one, QuarantinedRow):
                self._note(one)
        self._judge(ended=False)
        self._progress(len(outcomes), note)

    def _done(self, block: int, rows: Sequence[tuple[int, DataRow]]) -> set[int]:
        """The numbers of a block that are stored; counts what of them is bad."""
        for one in self._store.bad(block):
            self._note(one)
        if self._store.is_sealed(block) and self._store.count(block) == len(rows):
            return {number for number, _ in rows}
        return self._store.numbers(block)

    def _note(self, bad: QuarantinedRow) -> None:
        self._bad += 1
        self._first = self._first or f"{bad.where}: {bad.reason}"

    def _judge(self, ended: bool) -> None:
        if reason := too_many_bad(self._config.max_bad, self._bad, self.rows, ended, self._first):
            raise DataError(reason)
