"""What a curation was made from, kept in its folder; another origin is refused, and the difference named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from curate.scorers import Scorers
from curate.store import ORIGIN, write_file
from engine.errors import StaleError
from engine.records import Record


class Origin(Record):
    """What decides every sample of a curation; a folder with another origin is refused."""

    model: str
    """Fingerprint of the weights that sampled."""
    precision: str
    data: str
    round: int
    seed: int
    n: int
    captions: object
    """How each caption candidate is sampled."""
    paint: object
    answer: object
    similarity: str
    """What compared captions, with its digest."""
    choices: str = ""
    """What matched answers with choices."""
    judge: object = None
    """Who answered about painted images; None is the model itself."""


def claim(folder: Path, origin: Origin) -> None:
    """Marks a folder as this curation's, or checks that it is.

    Raises:
        StaleError: it holds another one; the message names what differs.
    """
    path = folder / ORIGIN
    if not path.is_file():
        write_file(path, msgspec.json.encode(origin))
        return
    stored = _read(path, origin.similarity, origin.choices)
    changed = [
        f"{name} {getattr(stored, name)!r} -> {getattr(origin, name)!r}"
        for name in Origin.__struct_fields__
        if getattr(stored, name) != getattr(origin, name)
    ]
    if changed:
        raise StaleError(
            f"{folder}: was curated under other settings ({'; '.join(changed)}); "
            "use another --run, or remove this round's folder to curate it again"
        )


def require_same_scorers(folders: Iterable[Path], scorers: Scorers) -> None:
    """Later rounds compare their scores with those of earlier rounds (Eq. 10), so one scorer must give both.

    Raises:
        StaleError: an earlier round's candidates were scored by others.
    """
    ours = {
        "similarity": scorers.captions.name,
        "choices": scorers.choices.name,
        "judge": scorers.judge.origin if scorers.judge else None,
    }
    for folder in folders:
        if not (folder / ORIGIN).is_file():
            continue
        stored = _read(folder / ORIGIN, scorers.captions.name, scorers.choices.name)
        changed = [
            f"{name} {getattr(stored, name)!r} -> {one!r}"
            for name, one in ours.items()
            if getattr(stored, name) != one
        ]
        if changed:
            raise StaleError(
                f"{folder}: was scored by others ({'; '.join(changed)}), and a later round compares scores "
                "with it; name the same ones (--similarity, curate.judge), or use another --run"
            )


def _read(path: Path, similarity: str, choices: str) -> Origin:
    """A stored origin. Early ones have no digest of the text model, which is then taken as today's."""
    stored = msgspec.json.decode(path.read_bytes(), type=Origin)
    if not stored.choices and stored.similarity == similarity.partition("@")[0]:
        return msgspec.structs.replace(stored, similarity=similarity, choices=choices)
    return stored
