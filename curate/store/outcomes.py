"""What a curation keeps of every row of its source: the item's candidates, or why there are none."""

from __future__ import annotations

import msgspec

from engine.records import Candidates, Record


class Sampled(Record, tag="sampled", tag_field="kind"):
    """A row that was sampled and scored."""

    number: int
    """Place among the rows that are curated, from 0."""
    item: Candidates


class QuarantinedRow(Record, tag="bad", tag_field="kind"):
    """A row that is quarantined."""

    number: int
    where: str
    """Its place in the data set."""
    reason: str
    id: str = ""
    """Of its item, where the row could be read that far."""


Outcome = Sampled | QuarantinedRow

DECODER: msgspec.json.Decoder[Outcome] = msgspec.json.Decoder(Outcome)
"""Reads one line."""
