"""Ray actors as samplers: nothing is lost or repeated when one dies."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from curate.config import RayConfig
from curate.store.outcomes import Outcome, QuarantinedRow, Sampled
from curate.workers.pool import Chunk, LocalPool, NumberedItem
from curate.workers.ray_pool import RayPool
from engine.errors import ConfigError, DataError, EngineError
from engine.metering.counters import EngineWork, PathWork
from engine.records import Candidates, Item

pytest.importorskip("ray")


class Copying:
    """Gives every row as it is; ends its process, or fails, where a file says so."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done = 0

    @property
    def work(self) -> EngineWork:
        return EngineWork(captions=PathWork(seconds=1.0, samples=self._done, tokens=0))

    def sample(self, rows: Chunk) -> list[Outcome]:
        for row in rows:
            if (self._folder / f"deadly-{row.number}").exists():
                if (self._folder / "once").exists():
                    (self._folder / f"deadly-{row.number}").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if (self._folder / f"wrong-{row.number}").exists():
                raise DataError(f"row {row.number}: not like this")
        self._done += len(rows)
        return [outcome(row) for row in rows]


def outcome(row: NumberedItem) -> Outcome:
    item = row.item
    return Sampled(
        number=row.number,
        item=Candidates(item.id, 1, item.caption, "", 0, (), (1, 2), (), ()),
    )


def rows(count: int) -> list[NumberedItem]:
    return [
        NumberedItem(number=i, where=f"rows:{i}", item=Item(id=f"é{i}", caption="a", questions=()))
        for i in range(count)
    ]


def chunks(count: int, size: int = 3) -> Iterator[list[NumberedItem]]:
    every = rows(count)
    return (every[start : start + size] for start in range(0, count, size))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signs")


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[RayPool]:
    with closing(RayPool(lambda: Copying(folder), RayConfig(workers=2, cores=1))) as made:
        yield made


@pytest.fixture(autouse=True)
def _clean(folder: Path) -> None:
    for sign in folder.iterdir():
        sign.unlink()


def by_number(pool: RayPool | LocalPool, count: int) -> list[Outcome]:
    found = [one for part in pool.run(chunks(count)) for one in part]
    assert not [number for number, times in Counter(one.number for one in found).items() if times > 1]
    return sorted(found, key=lambda one: one.number)


def test_actors_give_what_one_process_gives(pool: RayPool, folder: Path) -> None:
    before = pool.work.captions.samples
    assert by_number(pool, 20) == by_number(LocalPool(Copying(folder)), 20)
    assert pool.work.captions.samples == before + 20
    assert len(set(pool.processes()) - {os.getpid()}) == 2


def test_the_death_of_an_actor_loses_and_repeats_nothing(pool: RayPool, folder: Path) -> None:
    for sign in ("once", "deadly-4", "deadly-17"):
        (folder / sign).touch()
    assert by_number(pool, 20) == by_number(LocalPool(Copying(folder)), 20)


def test_a_row_that_ends_every_actor_is_quarantined_and_its_chunk_is_not(pool: RayPool, folder: Path) -> None:
    (folder / "deadly-4").touch()
    found = by_number(pool, 9)
    assert found[4] == QuarantinedRow(
        number=4, where="rows:4", id="é4", reason="2 workers died while they sampled it"
    )
    assert [one for one in found if one.number != 4] == [outcome(row) for row in rows(9) if row.number != 4]


def test_an_error_of_a_sampler_is_one_line(pool: RayPool, folder: Path) -> None:
    (folder / "wrong-2").touch()
    with pytest.raises(EngineError, match=r"row 2: not like this$"):
        by_number(pool, 9)


def test_every_gpu_has_a_worker_and_cpus_have_two_unless_settings_say_otherwise() -> None:
    assert RayConfig().sized(0) == (2, 0.0)
    assert RayConfig().sized(8) == (8, 1.0)
    assert RayConfig(workers=2, gpus=0.5).sized(1) == (2, 0.5)
    assert RayConfig(workers=3, gpus=0.0).sized(1) == (3, 0.0)
    assert RayConfig(workers=9, gpus=1.0, address="auto").sized(0) == (9, 1.0)


@pytest.mark.parametrize(("config", "gpus"), [(RayConfig(workers=3), 2), (RayConfig(gpus=1.0), 0)])
def test_workers_that_would_wait_for_gpus_are_refused(config: RayConfig, gpus: int) -> None:
    with pytest.raises(ConfigError, match=rf"workers of 1 GPUs are more than the {gpus} of this machine"):
        config.sized(gpus)


def test_a_pool_has_at_least_one_worker() -> None:
    with pytest.raises(ConfigError, match=r"curate\.ray\.workers is 0"):
        RayConfig(workers=0)
