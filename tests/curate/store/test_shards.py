"""The store of a curation: whatever interrupts it, every row is kept once and sealed bytes are the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.store.manifest import MANIFEST
from curate.store.outcomes import Outcome, QuarantinedRow, Sampled
from curate.store.shards import FOLDER, LOCK, ShardStore, read_outcomes
from engine.errors import BusyError, DataError
from engine.records import Candidates

SIZE = 4


def outcome(number: int) -> Outcome:
    """Every fifth row is bad."""
    if number % 5 == 3:
        return QuarantinedRow(number=number, where=f"items.jsonl:{number}", reason="no caption")
    return Sampled(
        number=number,
        item=Candidates(
            id=f"item {number} \n é",
            round=1,
            caption="a red circle",
            category="",
            objects=1,
            questions=(),
            image_codes=(1, 2, number),
            captions=(),
            images=(),
        ),
    )


def complete(folder: Path, rows: int, chunk: int, order: Sequence[int] | None = None) -> None:
    """Stores what is missing of so many rows in chunks, its blocks in any order."""
    with ShardStore(folder, SIZE) as store:
        blocks = -(-rows // store.size)
        for block in order if order is not None else range(blocks):
            numbers = range(block * store.size, min(rows, (block + 1) * store.size))
            if store.is_sealed(block) and store.count(block) == len(numbers):
                continue
            if store.is_sealed(block):
                store.reopen(block)
            missing = sorted(set(numbers) - store.numbers(block))
            for start in range(0, len(missing), chunk):
                store.append([outcome(number) for number in missing[start : start + chunk]])
            store.seal(block)


def content(folder: Path) -> dict[str, bytes]:
    files = [folder / MANIFEST, *(folder / FOLDER).iterdir()]
    return {path.name: path.read_bytes() for path in files}


@settings(max_examples=25)
@given(
    rows=st.integers(1, 14),
    chunk=st.integers(1, 5),
    torn=st.integers(0, 400),
    junk=st.sampled_from([b"", b"\0\0\0\0", b'{"kind"', b"\0\0\n\0"]),
    seed=st.randoms(use_true_random=False),
)
def test_a_store_torn_anywhere_is_completed_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: int, chunk: int, torn: int, junk: bytes, seed: object
) -> None:
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    complete(whole, rows, 4)
    # Killed in the middle: some rows are there, the last append is torn, a power loss left junk.
    with ShardStore(broken, SIZE) as store:
        first = list(range(min(rows, SIZE)))
        seed.shuffle(first)  # type: ignore[attr-defined]
        for number in first:
            store.append([outcome(number)])
    (path,) = (broken / FOLDER).iterdir()
    kept = path.read_bytes()
    path.write_bytes(kept[: max(0, len(kept) - torn)] + junk)
    order = list(range(-(-rows // SIZE)))
    seed.shuffle(order)  # type: ignore[attr-defined]
    complete(broken, rows, chunk, order)
    assert content(broken) == content(whole)
    assert list(read_outcomes(broken)) == [outcome(number) for number in range(rows)]


@pytest.mark.parametrize("left", ["open", "no manifest"])
def test_a_kill_while_a_block_is_sealed_changes_nothing(tmp_path: Path, left: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    complete(whole, 6, 2)
    with ShardStore(killed, SIZE) as store:
        store.append([outcome(number) for number in (1, 0, 3, 2)])
        kept = (killed / FOLDER / "000000.open.jsonl").read_bytes()
        before = (killed / MANIFEST).read_bytes() if (killed / MANIFEST).exists() else None
        store.seal(0)
    # The open shard goes last, the manifest before it.
    (killed / FOLDER / "000000.open.jsonl").write_bytes(kept)
    if left == "no manifest":
        assert before is None
        (killed / MANIFEST).unlink()
    complete(killed, 6, 3)
    assert content(killed) == content(whole)


def test_quarantined_rows_can_be_tried_again(tmp_path: Path) -> None:
    complete(tmp_path, 10, 3)
    with ShardStore(tmp_path, SIZE) as store:
        assert store.forget_bad() == 2
        assert store.forget_bad() == 0
        assert sorted(one.number for one in store.outcomes()) == [0, 1, 2, 4, 5, 6, 7, 9]
    fresh = content(tmp_path)
    complete(tmp_path, 10, 1)
    assert content(tmp_path) != fresh
    complete(whole := tmp_path / "whole", 10, 3)
    assert {**content(tmp_path)} == content(whole)


def test_a_round_that_grows_keeps_what_it_has(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    complete(small, 6, 2)
    complete(small, 11, 2)
    complete(large, 11, 4)
    assert content(small) == content(large)


def test_two_processes_cannot_write_one_round(tmp_path: Path) -> None:
    with ShardStore(tmp_path, SIZE), pytest.raises(BusyError, match=r"process \d+ is curating this round"):
        ShardStore(tmp_path, SIZE)
    with ShardStore(tmp_path, SIZE) as store:
        store.append([outcome(0)])
    assert (tmp_path / LOCK).exists()


def test_a_sealed_shard_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    complete(tmp_path, 4, 4)
    path = tmp_path / FOLDER / "000000.jsonl"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"red", b"tan"))
    with ShardStore(tmp_path, SIZE) as store, pytest.raises(DataError, match="changed after it was sealed"):
        list(store.outcomes())
    path.write_bytes(good[:-1])
    with pytest.raises(DataError, match=f"{len(good) - 1} bytes instead of {len(good)}"):
        ShardStore(tmp_path, SIZE)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        ShardStore(tmp_path, SIZE)


def test_a_manifest_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    complete(tmp_path, 4, 4)
    (tmp_path / MANIFEST).write_bytes(b'{"size": "many"}')
    with pytest.raises(DataError, match="restore it, or curate this round again with --fresh"):
        ShardStore(tmp_path, SIZE)


def test_whoever_looks_finds_all_rows_of_a_shard_that_is_sealed_or_opened_meanwhile(tmp_path: Path) -> None:
    with ShardStore(tmp_path, SIZE) as store:
        for block in range(2):
            store.append([outcome(block * SIZE + place) for place in range(SIZE)])
        for change in (store.seal, store.reopen):
            seen = read_outcomes(tmp_path)
            first = next(seen)
            change(1)
            assert [first, *seen] == [outcome(number) for number in range(2 * SIZE)]


def test_whoever_looks_is_told_of_a_damaged_shard(tmp_path: Path) -> None:
    complete(tmp_path, 4, 4)
    path = tmp_path / FOLDER / "000000.jsonl"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole.replace(b"1", b"2", 1)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"bytes instead of|changed after it was sealed"):
            list(read_outcomes(tmp_path))
    path.unlink()
    with pytest.raises(DataError, match="is missing; restore it"):
        list(read_outcomes(tmp_path))


FULL = """
import resource, signal, sys
from pathlib import Path
from curate.store.shards import ShardStore
from engine.errors import DataError
sys.path.insert(0, {tests!r})
from test_shards import SIZE, outcome
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
with ShardStore(Path({folder!r}), SIZE) as store:
    try:
        for number in range(4):
            store.append([outcome(number)])
    except DataError as error:
        print(error)
"""


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: both refuse in the middle of a write."""
    script = FULL.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "full"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot be written: File too large; make room" in done.stdout
    complete(tmp_path / "full", 9, 2)
    complete(tmp_path / "whole", 9, 2)
    assert content(tmp_path / "full") == content(tmp_path / "whole")


def test_what_is_stored_reads_back_as_it_was() -> None:
    for number in range(10):
        one = outcome(number)
        assert msgspec.json.decode(msgspec.json.encode(one), type=Outcome) == one
