"""How far a round's judge agrees with the oracle; looking at every candidate takes time, so it is kept."""

from __future__ import annotations

import hashlib

import msgspec

from curate.evaluation.agreement import Agreement
from curate.store.files import ORIGIN, PAIRS
from curate.store.manifest import MANIFEST
from engine.errors import UNREADABLE
from engine.files.atomic import write_file
from engine.files.seals import damage, seal
from engine.records import Record
from hermes_cli.inspection.round import InspectedRound
from hermes_cli.run.folder import RunFolder

VERSION = 2
"""Of what is computed from the same candidates."""


class JudgeAgreement(Record):
    """What is kept of a round."""

    digest: str
    """Of the candidates, their pairs and what they were made from."""
    scored_by: str
    """Who scored the candidates."""
    agreement: Agreement | None
    """None where the oracle cannot judge."""


def judge_agreement(folder: RunFolder, number: int) -> JudgeAgreement | None:
    """That of a curated round, computed where it is not kept; None where the round is not curated here.

    Raises:
        CheckpointError: the candidates do not fit the model's image tokenizer.
        DataError: they cannot be read.
    """
    found = InspectedRound(folder, number)
    if found.origin is None or not folder.pairs(number).is_file():
        return None
    digest, path = _digest(folder, number), folder.agreement(number)
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=JudgeAgreement)
    except (OSError, *UNREADABLE):
        # Also where shares of nothing were stored: null in JSON, and no numbers.
        kept = None
    if kept is not None and kept.digest == digest and not damage(path.parent, path.name):
        return kept
    compared = found.agreement() if found.oracle else None
    fresh = JudgeAgreement(digest=digest, scored_by=found.scored_by, agreement=compared)
    write_file(path, msgspec.json.encode(fresh))
    seal(path.parent, [path.name])
    return fresh


def _digest(folder: RunFolder, number: int) -> str:
    """The manifest has the checksums of all candidates."""
    digest = hashlib.blake2b(bytes([VERSION]), digest_size=12)
    for name in (MANIFEST, PAIRS, ORIGIN):
        path = folder.curation(number) / name
        digest.update(hashlib.blake2b(path.read_bytes() if path.is_file() else b"").digest())
    return digest.hexdigest()
