"""The reference pass in several processes: the same store, whoever wrote it and whoever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.errors import BusyError, DataError
from engine.files.lock import holding
from engine.records import Preference
from train.command import precompute
from train.config import TrainConfig
from train.data.preferences import load_preferences
from train.reference.inputs import read_inputs
from train.reference.reference import Reference, ReferenceBasis, open_reference, partial_of
from train.reference.store import BLOCK, MOST_BLOCKS, PartialStore, block_size

CONFIG = TrainConfig(num_masks=2, text_dropout=0.3)
COUNT = 3 * BLOCK + 5

SCRIPT = """
import sys
from pathlib import Path
import msgspec
from train.command import precompute
from train.reference.inputs import read_inputs
from train.config import TrainConfig

pairs, checkpoint, store = map(Path, sys.argv[1:4])
config = msgspec.json.decode(sys.argv[4], type=TrainConfig)
inputs = read_inputs(pairs, checkpoint, config)
precompute(inputs, store, lambda done, total: print(done, flush=True), int(sys.argv[5]))
"""


@pytest.fixture
def many(
    tmp_path: Path,
    preferences_like: Callable[..., list[Preference]],
    write_pairs: Callable[[Path, list[Preference]], Path],
) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl", preferences_like(COUNT, missing_captions=(3, 40)))


def opened(store: Path, pairs: Path, checkpoint: Path) -> Reference:
    return open_reference(store, ReferenceBasis.of(checkpoint, load_preferences(pairs), CONFIG))


def assert_same(found: Reference, wanted: Reference) -> None:
    for name, first, second in zip(Reference._fields, found, wanted, strict=True):
        assert np.array_equal(first, second, equal_nan=True), name


def start(pairs: Path, checkpoint: Path, store: Path, ranks: int) -> subprocess.Popen[str]:
    """A reference pass in its own process group, which prints how many preferences are done."""
    settings = msgspec.json.encode(CONFIG).decode()
    arguments = [str(pairs), str(checkpoint), str(store), settings, str(ranks)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_leave_the_store_of_one_bit_for_bit(
    tmp_path: Path, many: Path, checkpoint: Path
) -> None:
    inputs = read_inputs(many, checkpoint, CONFIG)
    one = precompute(inputs, tmp_path / "one.zarr")
    seen: list[int] = []
    two = precompute(inputs, tmp_path / "two.zarr", lambda done, total: seen.append(done), ranks=2)
    assert_same(opened(two, many, checkpoint), opened(one, many, checkpoint))
    assert seen == sorted(seen)
    assert len(seen) == 5
    assert seen[-1] == COUNT
    assert not partial_of(two).exists()


def test_a_pass_killed_with_two_processes_goes_on_with_one(
    tmp_path: Path, many: Path, checkpoint: Path
) -> None:
    inputs = read_inputs(many, checkpoint, CONFIG)
    wanted = opened(precompute(inputs, tmp_path / "one.zarr"), many, checkpoint)
    path = tmp_path / "killed.zarr"
    process = start(many, checkpoint, path, ranks=2)
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines[0] == "0\n"
    assert 0 < int(lines[1]) < COUNT
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    # The ranks end as their parent did: until then they hold its end of the error pipe.
    assert process.stderr
    process.stderr.read()
    assert time.monotonic() < deadline
    if not path.exists():
        left = PartialStore.open(partial_of(path)).missing()
        assert 0 <= len(left) < 4
    precompute(inputs, path)
    assert_same(opened(path, many, checkpoint), wanted)


def test_an_error_in_a_rank_is_the_callers_and_finished_blocks_are_kept(
    tmp_path: Path, many: Path, checkpoint: Path
) -> None:
    """The file changes under the ranks: they read it again, each for itself."""
    path = tmp_path / "refs.zarr"

    def spoil(done: int, total: int) -> None:
        if done == 0:
            many.write_bytes(b"{")

    content = many.read_bytes()
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 1: not a preference"):
        precompute(read_inputs(many, checkpoint, CONFIG), path, spoil, ranks=2)
    assert not path.exists()
    many.write_bytes(content)
    assert precompute(read_inputs(many, checkpoint, CONFIG), path) == path


def test_a_second_computation_of_the_same_store_is_refused(
    tmp_path: Path, many: Path, checkpoint: Path
) -> None:
    path = tmp_path / "refs.zarr"
    inputs = read_inputs(many, checkpoint, CONFIG)
    with (
        holding(path.with_name("refs.zarr.lock"), ""),
        pytest.raises(BusyError, match=r"refs\.zarr: another process"),
    ):
        precompute(inputs, path)
    precompute(inputs, path)


def test_blocks_grow_with_the_number_of_pairs_so_that_chunks_stay_few() -> None:
    assert block_size(1) == block_size(BLOCK * MOST_BLOCKS) == BLOCK
    assert block_size(1_000_000) == 489
    assert -(-1_000_000 // block_size(1_000_000)) <= MOST_BLOCKS
