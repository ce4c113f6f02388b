"""A pool of Ray actors, each with an engine of its own; it outlives the death of any of them.

Actors return outcomes and write nothing, so the store has one writer, and a chunk counts when its outcomes
are stored. A chunk whose actor died is sampled again by another; outcomes depend on seeds and items alone, so
it does not matter by whom. A row that ends two actors by itself is quarantined.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

from curate.config import RayConfig
from curate.store.outcomes import Outcome, QuarantinedRow
from curate.workers.pool import Chunk, NumberedItem, Sampler
from engine.errors import ConfigError, EngineError, HermesError
from engine.machine.plan import dealt
from engine.machine.probe import gpu_count
from engine.metering.counters import EngineWork
from engine.records import Record

DEATHS = 2
"""Workers that a chunk may cost before its rows are tried one by one, and a row before it is quarantined."""
STARTS = 3
"""Workers that may die in a row before they have sampled anything."""


class _Task(Record):
    """A chunk on its way."""

    rows: tuple[NumberedItem, ...]
    deaths: int = 0


class _Worker:
    """What runs inside an actor."""

    def __init__(self, make: Callable[[], Sampler], cores: set[int], folder: str) -> None:
        if folder:
            os.chdir(folder)
        if cores:
            # Before any thread starts: threads inherit the cores.
            os.sched_setaffinity(0, cores)
        self._sampler = make()

    def sample(self, rows: Chunk) -> tuple[list[Outcome], EngineWork]:
        """Outcomes, and the work done so far."""
        return self._sampler.sample(rows), self._sampler.work

    def ready(self) -> int:
        """The process id, once the sampler stands."""
        return os.getpid()


class RayPool:
    """Actors that each build a sampler by `make`, which must be picklable; `closing` ends them.

    Raises (constructor):
        ConfigError: Ray is not installed, or there are too few GPUs.
        EngineError: the cluster cannot be reached, or an actor cannot build its sampler.
    """

    def __init__(self, make: Callable[[], Sampler], config: RayConfig) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("--workers ray needs Ray; install the `ray` extra") from error
        self._ray, self._make, self._address = ray, make, config.address
        self.engines, self._gpus = config.sized(gpu_count())
        self._cores = config.cores or len(dealt(sorted(os.sched_getaffinity(0)), self.engines)[0])
        self._own = not ray.is_initialized()
        if self._own:
            self._start()
        self._work: dict[Any, EngineWork] = {}
        self._starts = 0
        self._idle = [self._actor(place) for place in range(self.engines)]
        try:
            self.processes()
        except ray.exceptions.RayActorError as error:
            self.close()
            raise _translated(error) from error

    def _start(self) -> None:
        """Joins the cluster of the settings, or starts one that only this machine reaches."""
        cluster: dict[str, Any] = {"address": self._address}
        if not self._address:
            cores = self._cores * self.engines
            cluster = dict(num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            # Ray lets workers look for modules where it starts, and there first: a user's folder may hold a
            # train.py of hers, ours holds ours.
            with chdir(Path(__file__).parents[2]):
                self._ray.init(**cluster, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise EngineError(f"Ray cannot start: {type(error).__name__}: {error}") from error

    def _actor(self, place: int) -> tuple[int, Any]:
        """A worker in a place; its cores are its own, so that workers do not fight."""
        cores = sorted(os.sched_getaffinity(0))
        # Those of another machine have other numbers.
        mine = set() if self._address else set(cores[place * self._cores % len(cores) :][: self._cores])
        variables = {"OMP_NUM_THREADS": str(self._cores), "PYTHONSAFEPATH": "1"}
        environment = {"env_vars": variables}
        folder = "" if self._address else os.getcwd()
        remote = self._ray.remote(num_cpus=self._cores, num_gpus=self._gpus, runtime_env=environment)
        return place, remote(_Worker).remote(self._make, mine, folder)

    @property
    def work(self) -> EngineWork:
        """Of all actors, the dead ones included."""
        return sum(self._work.values(), EngineWork())

    def processes(self) -> list[int]:
        """The process ids of the idle actors, once their samplers stand."""
        return [self._ray.get(actor.ready.remote()) for _, actor in self._idle]

    def run(self, chunks: Iterable[Chunk]) -> Iterator[list[Outcome]]:
        """See `Pool.run`.

        Raises:
            HermesError: whatever a sampler raises.
            EngineError: workers keep dying before they have sampled anything.
        """
        tasks = (_Task(rows=tuple(chunk)) for chunk in chunks)
        again: deque[_Task] = deque()
        busy: dict[Any, tuple[int, Any, _Task]] = {}
        try:
            while True:
                while self._idle and (task := again.popleft() if again else next(tasks, None)):
                    place, actor = self._idle.pop()
                    busy[actor.sample.remote(task.rows)] = (place, actor, task)
                if not busy:
                    return
                (done,), _ = self._ray.wait(list(busy), num_returns=1)
                place, actor, task = busy.pop(done)
                try:
                    outcomes, self._work[actor] = self._ray.get(done)
                except self._ray.exceptions.RayActorError as error:
                    self._idle.append(self._replaced(place, error))
                    retried, outcomes = _after_death(task)
                    again.extend(retried)
                except self._ray.exceptions.RayTaskError as error:
                    self._idle.append((place, actor))
                    raise _translated(error) from error
                else:
                    self._starts = 0
                    self._idle.append((place, actor))
                if outcomes:
                    yield outcomes
        finally:
            # What is under way is lost, its actors are not.
            self._idle += [(place, actor) for place, actor, _ in busy.values()]

    def _replaced(self, place: int, error: Exception) -> tuple[int, Any]:
        cause = getattr(error, "cause", None)
        if isinstance(cause, self._ray.exceptions.RayTaskError):
            # The sampler could not be built: the next one could not either.
            raise _translated(cause) from error
        self._starts += 1
        if self._starts > STARTS * self.engines:
            raise EngineError(f"{self._starts} workers died one after the other: {error}") from error
        return self._actor(place)

    def close(self) -> None:
        """Ends the actors, and the cluster where this pool has started it."""
        for _, actor in self._idle:
            self._ray.kill(actor)
        self._idle = []
        if self._own:
            self._ray.shutdown()


def _after_death(task: _Task) -> tuple[list[_Task], list[Outcome]]:
    """What is tried again, and what is given up."""
    deaths = task.deaths + 1
    if deaths < DEATHS:
        return [_Task(rows=task.rows, deaths=deaths)], []
    if len(task.rows) > 1:
        return [_Task(rows=(row,)) for row in task.rows], []
    (row,) = task.rows
    reason = f"{DEATHS} workers died while they sampled it"
    return [], [QuarantinedRow(number=row.number, where=row.where, id=row.item.id, reason=reason)]


def _translated(error: Any) -> HermesError:
    """Our own errors as they were, anything else as a failure of the engine."""
    cause = getattr(error, "cause", None) or error
    line = str(cause).strip().splitlines()[-1]
    # Ray's class for one of ours is made on the fly; ours prints as one line.
    return EngineError(
        line if isinstance(cause, HermesError) else f"a worker failed: {type(cause).__name__}: {line}"
    )
