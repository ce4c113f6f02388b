"""The engine of a run: opened when a stage first needs it, then kept; other weights come by swap."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

from engine.errors import EngineError, HermesError
from hermes_cli.run.event_log import Event, log_event, log_failure, one_line
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import RunSettings
from hermes_cli.stages.evaluate import measured, start_engine
from hermes_cli.view import say

if TYPE_CHECKING:
    from engine.machine.plan import Plan
    from engine.serving.engine import Engine


class LazyEngine:
    """Nothing is started before `serving` is called."""

    def __init__(self, folder: RunFolder, settings: RunSettings, ranks: int = 0) -> None:
        """`ranks` processes, 0 for none, are going to train in turns with it."""
        self._folder, self._settings, self._ranks = folder, settings, ranks
        self._engine: Engine | None = None
        self._serves = 0

    @cached_property
    def plan(self) -> Plan:
        """What engine and training use, planned and said once.

        Raises:
            ConfigError: there is too little memory for them.
        """
        from hermes_cli.stages.processes import plan_processes

        base = self._folder.checkpoint(0)
        trains = self._ranks > 0
        return plan_processes(self._settings, base, samples=True, trains=trains, ranks=self._ranks)

    def asleep(self) -> AbstractContextManager[None]:
        """While another process needs what it has: as the plan says, where it has been opened."""
        return nullcontext() if self._engine is None else self._engine.asleep(self.plan.sleep)

    def serving(self, number: int) -> Engine:
        """The engine on the weights of a round.

        Weights that no evaluation has been made with come by a swap, which verifies their probes.

        Raises:
            CheckpointError, EngineError: the engine cannot start, or refuses the swap; the log says so.
        """
        engine = self._engine
        if engine is None:
            # Weights that an evaluation was made with have served.
            served = number == 0 or measured(self._folder, number) is not None
            engine = self._open(number if served else number - 1)
        if self._serves != number:
            self._swap(engine, number)
        return engine

    def _open(self, number: int) -> Engine:
        from hermes_cli.stages.processes import use_threads

        use_threads(self.plan)
        log, checkpoint = self._folder.events, self._folder.checkpoint(number)
        say(f"starting the engine on {checkpoint}")
        log_event(log, Event(number, "engine", "begun"))
        try:
            engine = start_engine(self._settings.engine, checkpoint, self.plan)
        except BaseException as error:
            log_failure(log, Event(number, "engine", "failed"), error)
            raise
        self._engine, self._serves = engine, number
        log_event(log, Event(number, "engine", "done", weights=engine.fingerprint, engine=engine.version))
        return engine

    def _swap(self, engine: Engine, number: int) -> None:
        log, old = self._folder.events, self._serves
        log_event(log, Event(number, "swap", "begun", engine=engine.version))
        try:
            engine.swap(self._folder.checkpoint(number))
        except BaseException as error:
            keeps = f"; the old weights, of {'the base' if old == 0 else f'round {old}'}, keep serving"
            failed = Event(number, "swap", "failed", weights=engine.fingerprint, engine=engine.version)
            log_failure(log, failed, error, keeps)
            if not isinstance(error, HermesError):
                raise
            raise EngineError(
                f"swap to round {number} refused: {one_line(error)}{keeps}. Mend it, or remove "
                f"{self._folder.checkpoint(number)} and {self._folder.training(number)} to train the round "
                "again; the same command goes on"
            ) from error
        self._serves = number
        swapped = Event(number, "swap", "swapped", weights=engine.fingerprint, engine=engine.version)
        log_event(log, swapped)
        say(f"swapped to the weights of round {number} (engine version {engine.version})")

    def close(self) -> None:
        """Ends the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
