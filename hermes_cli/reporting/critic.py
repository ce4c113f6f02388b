"""How far a round's critic agrees with the oracle; looking at every candidate takes time, so it is kept."""

from __future__ import annotations

import hashlib

import msgspec

from curate.evaluation.agreement import Agreement
from curate.store.files import ORIGIN, PAIRS
from curate.store.shards import MANIFEST
from engine.files.atomic import write_file
from engine.records import Record
from hermes_cli.run.folder import RunFolder

VERSION = 1
"""Of what is computed from the same candidates."""


class Criticism(Record):
    """What is kept of a round."""

    basis: str
    """Digest of the candidates, their pairs and their origin."""
    critic: str
    """Who scored the candidates."""
    agreement: Agreement | None
    """None where the oracle cannot judge."""


def criticism(folder: RunFolder, number: int) -> Criticism | None:
    """That of a curated round, computed where it is not kept; None where the round is not curated here.

    Raises:
        CheckpointError: the candidates do not fit the model's image tokenizer.
        DataError: they cannot be read.
    """
    from hermes_cli.inspection.round import InspectedRound

    found = InspectedRound(folder, number)
    if not found.origin or not folder.pairs(number).is_file():
        return None
    basis, path = _basis(folder, number), folder.criticism(number)
    kept = _kept(folder, number)
    if kept is not None and kept.basis == basis:
        return kept
    fresh = Criticism(basis=basis, critic=found.critic, agreement=found.agreement() if found.oracle else None)
    write_file(path, msgspec.json.encode(fresh))
    return fresh


def _kept(folder: RunFolder, number: int) -> Criticism | None:
    """What is kept; shares of nothing are null in JSON and no numbers, so such a round is judged again."""
    try:
        return msgspec.json.decode(folder.criticism(number).read_bytes(), type=Criticism)
    except (OSError, msgspec.MsgspecError):
        return None


def _basis(folder: RunFolder, number: int) -> str:
    """The manifest has the checksums of all candidates."""
    digest = hashlib.blake2b(bytes([VERSION]), digest_size=12)
    for name in (MANIFEST, PAIRS, ORIGIN):
        path = folder.curation(number) / name
        digest.update(hashlib.blake2b(path.read_bytes() if path.is_file() else b"").digest())
    return digest.hexdigest()
