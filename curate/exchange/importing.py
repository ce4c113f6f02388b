"""Foreign pairs written as a round's own: one row at a time, the pair file last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from curate.exchange.encoding import Encoder
from curate.exchange.files import Found, row_files, rows
from curate.exchange.incoming import READERS, UnusableError, told_format
from curate.sources import RowProblem
from curate.sources.digest import files_digest
from curate.store.files import IMPORTED, ORIGIN, PAIRS, QUARANTINE, SUMMARY
from curate.store.summary import CurateSummary
from engine.errors import ConfigError, DataError
from engine.files.atomic import atomic_file, write_file
from engine.files.clip_features import FEATURES
from engine.records import Preference, Record

if TYPE_CHECKING:
    from curate.exchange.tokenizers import Tokenizers


class Imported(Record):
    """Where a round's pairs came from, in place of a curation's origin."""

    source: str
    """Name of the file or folder."""
    files: tuple[str, ...]
    digest: str
    """Of those files; images beside them are not in it."""
    formats: tuple[str, ...]
    round: int
    tokenizers: str
    """Digest of the tokenizers that made codes and token ids."""
    rows: int
    items: int
    caption_pairs: int
    image_pairs: int
    quarantined: int
    """Rows that gave nothing."""
    one_sided: int
    """Rows of which one side could not be used; the quarantine file names them too."""
    pairs: str
    """Digest of the pair file."""


class _Counts:
    """What importing counts, and sums of scores."""

    def __init__(self) -> None:
        self.rows = self.items = self.captions = self.images = self.ties = 0
        self.quarantined = self.one_sided = 0
        self.no_captions: Counter[str] = Counter()
        self.no_images: Counter[str] = Counter()
        self.caption_scores = self.image_scores = 0.0
        self.first_problem = ""

    def add(self, found: Found, kept: Preference | None, problems: tuple[str, ...]) -> None:
        """Counts a row."""
        self.rows += 1
        if problems and not self.first_problem:
            self.first_problem = f"{found.where}: {problems[0]}"
        if kept is None:
            self.quarantined += 1
        else:
            self.one_sided += bool(problems)
            self._add(kept)

    def _add(self, one: Preference) -> None:
        self.items += 1
        if one.captions:
            self.captions += 1
            self.caption_scores += one.captions.win.score + one.captions.lose.score
        else:
            self.no_captions[one.caption_reason.partition(":")[0]] += 1
        if one.images:
            self.images += 1
            self.ties += one.images.tie
            self.image_scores += one.images.win.score + one.images.lose.score
        else:
            self.no_images[one.image_reason.partition(":")[0]] += 1

    def summary(self) -> CurateSummary:
        """As of a curation, so that reports find it; means are those of the pairs alone."""
        return CurateSummary(
            items=self.items,
            caption_pairs=self.captions,
            image_pairs=self.images,
            no_caption_pair=dict(self.no_captions),
            no_image_pair=dict(self.no_images),
            mean_similarity=self.caption_scores / (2 * self.captions or 1),
            mean_self_vqa=self.image_scores / (2 * self.images or 1),
            bad=self.quarantined,
            image_ties=self.ties,
        )


def check_import(source: Path, folder: Path, form: str) -> list[Path]:
    """The files with rows of a source that may be imported into `folder`, before anything is loaded.

    Raises:
        ConfigError: the format is not known.
        DataError: the round has pairs already; there are no rows.
    """
    if form and form not in READERS:
        raise ConfigError(f"--format {form}: not known; known are {', '.join(READERS)}")
    if taken := [name for name in (PAIRS, ORIGIN) if (folder / name).exists()]:
        raise DataError(
            f"{folder}: holds {taken[0]} already; name another --run, or remove this folder to import into it"
        )
    return row_files(source)


def import_pairs(
    source: Path,
    folder: Path,
    tokenizers: Tokenizers,
    round_number: int,
    form: str = "",
    images: Sequence[Path] = (),
    progress: Callable[[int], None] = lambda count: None,
) -> Imported:
    """Writes the pairs of a file or folder into `folder`, a round's curation.

    Images are looked for in the folders `images`, by default beside their rows. An empty `form` is told from
    each row. Rows that cannot be used go to QUARANTINE with their reason. The pair file appears last, whole.

    Raises:
        ConfigError: the format is not known.
        DataError: the round has pairs already; there are no rows; none can be used.
    """
    files = check_import(source, folder, form)
    intake, counts = _Intake(form), _Counts()
    pair_digest = blake2b(digest_size=16)
    with atomic_file(folder / PAIRS) as write_pair:
        with atomic_file(folder / QUARANTINE) as write_problem:
            for file in files:
                encoder = Encoder(tokenizers, images or (file.parent,), folder / FEATURES, round_number)
                for found in rows(file):
                    kept, problems = intake.take(found, encoder)
                    counts.add(found, kept, problems)
                    for one in problems:
                        write_problem(_line(RowProblem(where=found.where, reason=one)))
                    if kept is not None:
                        write_pair(_line(kept))
                        pair_digest.update(_line(kept))
                    progress(1)
        if not counts.items:
            first = counts.first_problem or "there is no row"
            raise DataError(f"{source}: no row can be used; the first: {first}")
        imported = Imported(
            source=source.name,
            files=tuple(file.name for file in files),
            digest=files_digest(files),
            formats=tuple(sorted(intake.formats)),
            round=round_number,
            tokenizers=tokenizers.name,
            rows=counts.rows,
            items=counts.items,
            caption_pairs=counts.captions,
            image_pairs=counts.images,
            quarantined=counts.quarantined,
            one_sided=counts.one_sided,
            pairs=pair_digest.hexdigest(),
        )
        for name, record in ((SUMMARY, counts.summary()), (IMPORTED, imported)):
            write_file(folder / name, msgspec.json.format(msgspec.json.encode(record)))
    return imported


class _Intake:
    """Rows of any format, one after another, as preferences of distinct ids."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._ids: set[str] = set()
        self.formats: set[str] = set()

    def take(self, found: Found, encoder: Encoder) -> tuple[Preference | None, tuple[str, ...]]:
        """The preference of a row, and what of it cannot be used."""
        try:
            if found.value is None:
                raise UnusableError(found.problem)
            form = self._form or told_format(found.value)
            if not form:
                raise UnusableError("its fields are of no known format", ", ".join(sorted(found.value))[:80])
            kept, problems = encoder.preference(READERS[form](found.value), found.where.replace(":", "-"))
            if kept.id in self._ids:
                raise UnusableError("its id occurred before", kept.id)
            self._ids.add(kept.id)
        except UnusableError as error:
            return None, (str(error),)
        self.formats.add(form)
        return kept, problems


def _line(record: Record) -> bytes:
    return msgspec.json.encode(record) + b"\n"
