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
from types import TracebackType
from typing import Any, Self

import msgspec

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
_OUTCOMES: msgspec.json.Decoder[list[Outcome]] = msgspec.json.Decoder(list[Outcome])
_ROWS: msgspec.json.Decoder[list[NumberedItem]] = msgspec.json.Decoder(list[NumberedItem])


class _Task(Record):
    """A chunk on its way."""

    rows: tuple[NumberedItem, ...]
    deaths: int = 0


class _Worker:
    """What runs inside an actor."""

    def __init__(self, make: Callable[[], Sampler]) -> None:
        self._sampler = make()

    def sample(self, rows: bytes) -> tuple[bytes, bytes]:
        """Outcomes and the work done so far, as JSON."""
        outcomes = self._sampler.sample(_ROWS.decode(rows))
        return msgspec.json.encode(outcomes), msgspec.json.encode(self._sampler.work)

    def ready(self) -> int:
        """The process id, once the sampler stands."""
        return os.getpid()


class RayPool:
    """Actors that each build a sampler by `make`, which must be picklable.

    Raises (constructor):
        ConfigError: Ray is not installed, or there are too few GPUs.
        EngineError: the cluster cannot be reached, or an actor cannot build its sampler.
    """

    def __init__(self, make: Callable[[], Sampler], config: RayConfig) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("--workers ray needs Ray; install the `ray` extra") from error
        self._ray, self._make, self._config = ray, make, config
        self._own = not ray.is_initialized()
        self._workers, self._gpus = config.sized(gpu_count())
        self._cores = config.cores or len(dealt(sorted(os.sched_getaffinity(0)), self._workers)[0])
        if self._own:
            self._start()
        self._work: dict[Any, EngineWork] = {}
        self._starts = 0
        self._idle = [self._actor(place) for place in range(self._workers)]
        try:
            self.processes()
        except self._ray.exceptions.RayActorError as error:
            self.close()
            raise _translated(error) from error

    def _start(self) -> None:
        local: dict[str, Any] = dict(
            num_cpus=self._cores * self._workers, include_dashboard=False, _node_ip_address="127.0.0.1"
        )
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            self._ray.init(
                **({"address": self._config.address} if self._config.address else local),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            raise EngineError(f"Ray cannot start: {type(error).__name__}: {error}") from error

    def _actor(self, place: int) -> tuple[int, Any]:
        """A worker in a place; its cores are its own, so that workers do not fight."""
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[place * self._cores % len(cores) :][: self._cores]
        environment = {"OMP_NUM_THREADS": str(self._cores)}
        if not self._config.address:
            environment["HERMES_CORES"] = ",".join(map(str, mine))
        remote = self._ray.remote(
            num_cpus=self._cores, num_gpus=self._gpus, runtime_env={"env_vars": environment}
        )
        return place, remote(_Worker).remote(_bound(self._make))

    @property
    def work(self) -> EngineWork:
        """Of all actors, the dead ones included."""
        return sum(self._work.values(), EngineWork())

    @property
    def engines(self) -> int:
        """One an actor."""
        return self._workers

    def processes(self) -> list[int]:
        """The process ids of the idle actors, once their samplers stand."""
        return [self._ray.get(actor.ready.remote()) for _, actor in self._idle]

    def run(self, chunks: Iterable[Chunk]) -> Iterator[list[Outcome]]:
        """See `Pool.run`.

        Raises:
            HermesError: whatever a sampler raises.
            EngineError: workers keep dying before they have sampled anything.
        """
        source = iter(chunks)
        again: deque[_Task] = deque()
        busy: dict[Any, tuple[int, Any, _Task]] = {}
        try:
            while True:
                while self._idle:
                    task = again.popleft() if again else _next(source)
                    if task is None:
                        break
                    place, actor = self._idle.pop()
                    busy[actor.sample.remote(msgspec.json.encode(task.rows))] = (place, actor, task)
                if not busy:
                    return
                (done,), _ = self._ray.wait(list(busy), num_returns=1)
                place, actor, task = busy.pop(done)
                try:
                    outcomes, work = self._ray.get(done)
                except self._ray.exceptions.RayActorError as error:
                    self._idle.append(self._replaced(place, error))
                    retried, given_up = _after_death(task)
                    again.extend(retried)
                    if given_up:
                        yield given_up
                    continue
                except self._ray.exceptions.RayTaskError as error:
                    self._idle.append((place, actor))
                    raise _translated(error) from error
                self._starts = 0
                self._idle.append((place, actor))
                self._work[actor] = msgspec.json.decode(work, type=EngineWork)
                yield _OUTCOMES.decode(outcomes)
        finally:
            # What is under way is lost, its actors are not.
            self._idle += [(place, actor) for place, actor, _ in busy.values()]

    def _replaced(self, place: int, error: Exception) -> tuple[int, Any]:
        cause = getattr(error, "cause", None)
        if isinstance(cause, self._ray.exceptions.RayTaskError):
            # The sampler could not be built: the next one could not either.
            raise _translated(cause) from error
        self._starts += 1
        if self._starts > STARTS * self._workers:
            raise EngineError(f"{self._starts} workers died one after the other: {error}") from error
        return self._actor(place)

    def close(self) -> None:
        """Ends the actors, and the cluster where this pool has started it."""
        for _, actor in self._idle:
            self._ray.kill(actor)
        self._idle = []
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _bound(make: Callable[[], Sampler]) -> Callable[[], Sampler]:
    """`make` on the cores that the environment names, which have to be chosen before any thread starts."""

    def bound() -> Sampler:
        if cores := os.environ.get("HERMES_CORES"):
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
        return make()

    return bound


def _next(source: Iterator[Chunk]) -> _Task | None:
    chunk = next(source, None)
    return None if chunk is None else _Task(rows=tuple(chunk))


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
    if isinstance(cause, HermesError):
        # Ray's class for it is made on the fly; ours prints as one line.
        return EngineError(str(cause).strip().splitlines()[-1])
    return EngineError(f"a worker failed: {type(cause).__name__}: {str(cause).strip().splitlines()[-1]}")
