"""Foreign pairs written as a round's own: one row at a time, the pair file last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from curate.exchange.encoding import Encoder
from curate.exchange.files import SourceRow, read_rows, row_files
from curate.exchange.incoming import READERS, UnusableError, detect_format
from curate.sources import RowProblem
from curate.sources.digest import files_digest
from curate.sources.rows import printable
from curate.store.files import IMPORTED, ORIGIN, PAIRS, QUARANTINE, SUMMARY
from curate.store.summary import Counting
from engine.errors import ConfigError, DataError
from engine.files.atomic import atomic_file, write_file
from engine.files.clip_features import FEATURES
from engine.files.seals import seal
from engine.records import Preference, Record

if TYPE_CHECKING:
    from curate.exchange.tokenizers import Tokenizers


class ImportedPairs(Record):
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


def check_import(source: Path, folder: Path, form: str) -> tuple[Path, ...]:
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
) -> ImportedPairs:
    """Writes the pairs of a file or folder into `folder`, a round's curation.

    Images are looked for in the folders `images`, then beside their rows. Without `form`, the fields of
    each row say its format. Rows that cannot be used go to QUARANTINE with their reason. The pair file
    appears last, whole.

    Raises:
        ConfigError: the format is not known.
        DataError: the round has pairs already; there are no rows; none can be used.
    """
    files = check_import(source, folder, form)
    intake, pair_digest = _Intake(form), blake2b(digest_size=16)
    with atomic_file(folder / PAIRS) as write_pair:
        with atomic_file(folder / QUARANTINE) as write_problem:
            for file in files:
                encoder = Encoder(tokenizers, (*images, file.parent), folder / FEATURES, round_number)
                for row in read_rows(file):
                    preference, problems = intake.take(row, encoder)
                    for reason in problems:
                        write_problem(_line(RowProblem(where=row.where, reason=printable(reason))))
                    if preference is not None:
                        write_pair(_line(preference))
                        pair_digest.update(_line(preference))
                    progress(1)
        summary = replace(intake.counting.summary(), bad=intake.quarantined)
        if not summary.items:
            raise DataError(f"{source}: no row can be used; the first: {intake.first_problem}")
        imported = ImportedPairs(
            source=source.name,
            files=tuple(file.name for file in files),
            digest=files_digest(files),
            formats=tuple(sorted(intake.formats)),
            round=round_number,
            tokenizers=tokenizers.name,
            rows=intake.rows,
            items=summary.items,
            caption_pairs=summary.caption_pairs,
            image_pairs=summary.image_pairs,
            quarantined=intake.quarantined,
            one_sided=intake.one_sided,
            pairs=pair_digest.hexdigest(),
        )
        for name, record in ((SUMMARY, summary), (IMPORTED, imported)):
            write_file(folder / name, msgspec.json.format(msgspec.json.encode(record)))
    seal(folder, (PAIRS, QUARANTINE, SUMMARY, IMPORTED))
    return imported


class _Intake:
    """Rows of any format, one after another, as preferences of distinct ids; counts them."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._ids: set[str] = set()
        self.formats: set[str] = set()
        self.counting = Counting()
        self.rows = self.quarantined = self.one_sided = 0
        self.first_problem = "there is no row"

    def take(self, row: SourceRow, encoder: Encoder) -> tuple[Preference | None, list[str]]:
        """The preference of a row, and what of it cannot be used."""
        preference: Preference | None = None
        problems: list[str] = []
        try:
            preference, problems = self._preference(row, encoder)
        except UnusableError as error:
            problems.append(str(error))
        if problems and self.quarantined == self.one_sided == 0:
            self.first_problem = f"{row.where}: {problems[0]}"
        self.rows += 1
        self.quarantined += preference is None
        self.one_sided += bool(preference and problems)
        if preference is not None:
            scores = [
                [pair.win.score, pair.lose.score] if pair else []
                for pair in (preference.captions, preference.images)
            ]
            self.counting.add(preference, *scores)
        return preference, problems

    def _preference(self, row: SourceRow, encoder: Encoder) -> tuple[Preference, list[str]]:
        if row.fields is None:
            raise UnusableError(row.problem)
        form = self._form or detect_format(row.fields)
        if not form:
            raise UnusableError(f"its fields are of no known format: {', '.join(sorted(row.fields))[:80]}")
        preference, problems = encoder.preference(READERS[form](row.fields), row.where.replace(":", "-"))
        if preference.id in self._ids:
            raise UnusableError(f"its id occurred before: {preference.id}")
        self._ids.add(preference.id)
        self.formats.add(form)
        return preference, problems


def _line(record: Record) -> bytes:
    return msgspec.json.encode(record) + b"\n"
