"""What a curation was made from, kept in its folder; another origin is refused, and the difference named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import msgspec

from curate.config import CurateConfig, caption_plan
from curate.questions.lookup import questions_digest
from curate.scoring.scorers import Scorers
from curate.sources import Source
from curate.store.files import ORIGIN
from curate.store.summary import AGAIN
from engine.errors import UNREADABLE, DataError, StaleError
from engine.files.atomic import write_file
from engine.files.seals import require_sealed
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
    """How each caption candidate is sampled, and by which sampler."""
    # On disk it keeps its early name: pairs name an origin by the digest of the file.
    image: object
    answer: object
    similarity: str
    """What compared captions, with its digest."""
    choices: str = ""
    """What matched answers with choices."""
    judge: object = None
    """Who answered about generated images; None is the model itself."""
    annotations: str = ""
    """Digest of the data set's annotations."""
    select: int = 0
    """Size of the random subset; 0 is everything."""
    skip: int = 0
    """Items of the data set before its first."""
    questions: str = ""
    """Digest of the file that they come from; empty for the data set's own."""
    device: str = "cpu"
    """What computed. A GPU rounds otherwise than a CPU: a curation stays where it was begun."""
    deterministic: bool = True
    """`engine.deterministic`, where that changes anything: on a GPU."""

    @property
    def sampler(self) -> str:
        """Who sampled captions and answers; empty where that was not kept."""
        match self.captions:
            case [{"sampler": str(name)}, *_]:
                return name
        return ""

    def encoded(self) -> bytes:
        """As JSON. A CPU's says nothing of devices, as before GPUs served: folders and digests stay."""
        tree = msgspec.to_builtins(self)
        if self.device == "cpu":
            del tree["device"], tree["deterministic"]
        return msgspec.json.encode(tree)

    def digest(self) -> str:
        """Digest of all of it, by which pairs name it."""
        return hashlib.blake2b(self.encoded(), digest_size=12).hexdigest()


def origin_of(
    source: Source,
    config: CurateConfig,
    scorers: Scorers,
    round_number: int,
    seed: int,
    *,
    model: str,
    precision: str,
    sampler: str = "branched",
    device: str = "cpu",
    deterministic: bool = True,
) -> Origin:
    """The origin of a round's curation by an engine, of which the last five decide its samples."""
    captions = msgspec.to_builtins(list(caption_plan(config)))
    return Origin(
        model=model,
        precision=precision,
        data=source.name,
        round=round_number,
        seed=seed,
        n=config.n,
        captions=[{**one, "sampler": sampler} for one in captions],
        image=msgspec.to_builtins(config.image),
        answer=msgspec.to_builtins(config.answer),
        similarity=scorers.captions.name,
        choices=scorers.choices.name,
        judge=scorers.judge.origin if scorers.judge else None,
        annotations=source.digest,
        questions=questions_digest(config.questions, config.combine_questions),
        select=config.select,
        skip=source.skip,
        device=device,
        deterministic=deterministic,
    )


def claim(folder: Path, origin: Origin) -> None:
    """Marks a folder as this curation's, or checks that it is (`require_same_origin`)."""
    require_same_origin(folder, origin)
    if not (folder / ORIGIN).is_file():
        write_file(folder / ORIGIN, origin.encoded())


def require_same_origin(folder: Path, origin: Origin) -> None:
    """Raises StaleError where a folder holds another curation; the message names what differs."""
    stored = read_origin(folder)
    if stored and (changed := _differences(stored, msgspec.structs.asdict(origin))):
        raise StaleError(
            f"{folder}: was curated under other settings ({changed}); "
            "use another --run, or `hermes curate --fresh` for this round"
        )


def _differences(stored: Origin, wanted: Mapping[str, object]) -> str:
    lines = (_changes(name, getattr(stored, name), one) for name, one in wanted.items())
    return "; ".join(chain.from_iterable(lines))


def _changes(name: str, old: object, new: object) -> list[str]:
    """What differs, in as few words as name it: of two tables the keys, of two lists their lengths first."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [line for key in keys for line in _changes(f"{name}.{key}", old.get(key), new.get(key))]
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return [f"{name}: {len(old)} -> {len(new)} entries"]
        return next(
            found
            for i, pair in enumerate(zip(old, new, strict=True))
            if (found := _changes(f"{name}[{i}]", *pair))
        )
    return [f"{name} {old!r} -> {new!r}"]


def require_same_scorers(folders: Iterable[Path], scorers: Scorers) -> None:
    """Later rounds compare their scores with those of earlier rounds (Eq. 10), so one scorer must give both.
    Imported pairs are not compared (`PairHistory`).

    Raises:
        StaleError: an earlier round's candidates were scored by others.
    """
    ours = {
        "similarity": scorers.captions.name,
        "choices": scorers.choices.name,
        "judge": scorers.judge.origin if scorers.judge else None,
    }
    for folder in folders:
        stored = read_origin(folder)
        if stored and (changed := _differences(stored, ours)):
            raise StaleError(
                f"{folder}: was scored by others ({changed}), and a later round compares scores "
                "with it; name the same ones (--similarity, curate.judge), or use another --run"
            )


def read_origin(folder: Path) -> Origin | None:
    """What a curation was made from; None where its folder does not say, as where pairs were imported.

    Raises:
        DataError: it cannot be read, or is not as it was sealed.
    """
    path = folder / ORIGIN
    require_sealed(path, AGAIN)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Origin) if path.is_file() else None
    except UNREADABLE as error:
        raise DataError(f"{path}: {error}") from error
