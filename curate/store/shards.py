"""The append-only store of a curation: a shard for each block of rows, a manifest with checksums, a lock.

A block of `size` rows has one shard. While rows are missing it is `NNNNNN.open.jsonl`, to which outcomes are
appended in any order, each append on disk before it counts. When all rows are there it is sealed: written
once more in the order of the rows, under its final name, and entered in the manifest with its checksum. So
the sealed bytes depend on the outcomes alone, not on interruptions, batch sizes or who sampled what first.

A kill or a power loss can tear the last line of an open shard; the torn tail is cut off when the store is
next opened, and its rows count as missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import msgspec

from curate.store.manifest import MANIFEST, Manifest, Shard, checksum, read_manifest, require_shard
from curate.store.outcomes import DECODER, Outcome, QuarantinedRow
from engine.errors import UNREADABLE, BusyError, DataError
from engine.files.atomic import write_file, writing
from engine.files.lock import take

LOCK, FOLDER = "lock", "candidates"
ROWS = 256
"""Rows of a block."""
OPEN = ".open.jsonl"


class ShardStore:
    """The store in a folder; one process at a time holds it open.

    Raises (constructor):
        BusyError: another process holds it.
        DataError: the manifest cannot be read, or a sealed shard is missing or of another size.
    """

    def __init__(self, folder: Path, size: int = ROWS) -> None:
        self._folder = folder / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._manifest_path = folder / MANIFEST
        with ExitStack() as held:
            held.enter_context(locked(folder))
            manifest = read_manifest(folder) or Manifest(size=size)
            self.size = manifest.size
            """Rows of a block, as they were when the store was made."""
            self._sealed = {shard.block: shard for shard in manifest.shards}
            self._open = {int(path.name[:6]): path for path in self._folder.glob("*" + OPEN)}
            for shard in manifest.shards:
                require_shard(shard, self._folder / shard.name)
            for block, path in list(self._open.items()):
                if block in self._sealed:
                    # Sealed, and killed before the open shard was removed.
                    path.unlink()
                    del self._open[block]
                else:
                    _cut_torn(path)
            self._held = held.pop_all()

    def numbers(self, block: int) -> set[int]:
        """The rows of a block that are stored."""
        return {one.number for one in self.block(block)}

    def count(self, block: int) -> int:
        """How many rows of a block are stored."""
        shard = self._sealed.get(block)
        return shard.rows if shard else len(self.numbers(block))

    def bad(self, block: int) -> list[QuarantinedRow]:
        """The quarantined rows of a block."""
        shard = self._sealed.get(block)
        if shard and not shard.bad:
            return []
        return [one for one in self.block(block) if isinstance(one, QuarantinedRow)]

    def is_sealed(self, block: int) -> bool:
        """Whether a block is sealed."""
        return block in self._sealed

    def block(self, block: int) -> list[Outcome]:
        """A block's outcomes: in the order of the rows where it is sealed, else as they came.

        Raises:
            DataError: a sealed shard has changed, or a line is no outcome.
        """
        shard = self._sealed.get(block)
        path = self._folder / shard.name if shard else self._open.get(block)
        if path is None:
            return []
        content = path.read_bytes()
        if shard:
            require_shard(shard, path, content)
        return _outcomes(content, path)

    def outcomes(self) -> Iterator[Outcome]:
        """All outcomes in the order of the rows, one block in memory at a time."""
        for block in sorted({*self._sealed, *self._open}):
            yield from sorted(self.block(block), key=lambda one: one.number)

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Stores outcomes of one block; they are on disk when this returns.

        Raises:
            DataError: the disk takes no more.
        """
        block = outcomes[0].number // self.size
        path = self._open.setdefault(block, self._folder / f"{block:06d}{OPEN}")
        with writing(path), path.open("ab") as stream:
            stream.write(_lines(outcomes))
            stream.flush()
            os.fsync(stream.fileno())

    def seal(self, block: int) -> None:
        """Writes a block in the order of its rows and enters it in the manifest."""
        outcomes = sorted(self.block(block), key=lambda one: one.number)
        content = _lines(outcomes)
        bad = sum(isinstance(one, QuarantinedRow) for one in outcomes)
        shard = Shard(
            block=block, rows=len(outcomes), bad=bad, bytes=len(content), checksum=checksum(content)
        )
        write_file(self._folder / shard.name, content)
        self._sealed[block] = shard
        self._write_manifest()
        if (path := self._open.pop(block, None)) is not None:
            path.unlink()

    def reopen(self, block: int, keep_bad: bool = True) -> None:
        """Lets a sealed block take more rows; without `keep_bad`, quarantined rows are missing again."""
        outcomes = [one for one in self.block(block) if keep_bad or not isinstance(one, QuarantinedRow)]
        path = self._folder / f"{block:06d}{OPEN}"
        write_file(path, _lines(outcomes))
        self._open[block] = path
        if (shard := self._sealed.pop(block, None)) is not None:
            self._write_manifest()
            (self._folder / shard.name).unlink()

    def forget_bad(self) -> int:
        """Makes every quarantined row missing again; returns how many there were."""
        forgotten = 0
        for block in sorted({*self._sealed, *self._open}):
            if bad := self.bad(block):
                self.reopen(block, keep_bad=False)
                forgotten += len(bad)
        return forgotten

    def close(self) -> None:
        """Gives up the lock; safe to call again."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write_manifest(self) -> None:
        shards = tuple(self._sealed[block] for block in sorted(self._sealed))
        manifest = Manifest(size=self.size, shards=shards).sealed()
        write_file(self._manifest_path, msgspec.json.encode(manifest))


def read_outcomes(folder: Path) -> Iterator[Outcome]:
    """All outcomes of a curation in the order of the rows, for those who only look; needs no lock.

    A line that is just being written is left out.

    Raises:
        DataError: a sealed shard is missing or has changed, or a line is no outcome.
    """
    manifest = read_manifest(folder)
    sealed = {shard.block: shard for shard in manifest.shards} if manifest else {}
    for block in sorted({*sealed, *(int(path.name[:6]) for path in (folder / FOLDER).glob("*.jsonl"))}):
        path, content = _look(folder / FOLDER, block, sealed.get(block))
        yield from sorted(_outcomes(content[: content.rfind(b"\n") + 1], path), key=lambda one: one.number)


def _look(folder: Path, block: int, shard: Shard | None) -> tuple[Path, bytes]:
    """A block's file and its content; it may be sealed or opened again meanwhile, and have its other name."""
    names = (f"{block:06d}{OPEN}", f"{block:06d}.jsonl")
    for path in (folder / name for name in (reversed(names) if shard else names)):
        with suppress(FileNotFoundError):
            content = path.read_bytes()
            if shard and path.name == shard.name:
                require_shard(shard, path, content)
            return path, content
    if shard:
        require_shard(shard, folder / shard.name)
    return folder, b""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps others from a curation's folder, also when it moves.

    Raises:
        BusyError: another process holds it.
    """
    path = folder / LOCK
    handle = take(path)
    if handle is None:
        holder = path.read_text(errors="replace").strip() or "unknown"
        raise BusyError(
            f"{folder}: process {holder} is curating this round; wait for it, or use another --run"
        )
    try:
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)


def _cut_torn(path: Path) -> None:
    """Cuts off what stands behind the last whole line; of a power loss, zeros too."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    while whole and not _readable(content[content.rfind(b"\n", 0, whole - 1) + 1 : whole]):
        whole = content.rfind(b"\n", 0, whole - 1) + 1
    if whole < len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)


def _readable(line: bytes) -> bool:
    try:
        DECODER.decode(line)
    except UNREADABLE:
        return False
    return True


def _outcomes(content: bytes, path: Path) -> list[Outcome]:
    return [_decoded(line, path, number) for number, line in enumerate(content.splitlines(), 1)]


def _decoded(line: bytes, path: Path, number: int) -> Outcome:
    try:
        return DECODER.decode(line)
    except UNREADABLE as error:
        raise DataError(f"{path}, line {number}: not a record of this curation: {error}") from error


def _lines(outcomes: Iterable[Outcome]) -> bytes:
    return b"".join(msgspec.json.encode(one) + b"\n" for one in outcomes)
