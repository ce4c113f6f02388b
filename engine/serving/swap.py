"""Which weights an engine serves, and how others take their place; asleep, it needs less memory for them.

A swap in order: calls are kept out, the checkpoint is checked whole, its weights are laid out aside and
exchanged in one go, verified, kept or sent back, and only then is the version counted up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from engine.checkpoints.compatibility import check_swap
from engine.checkpoints.swap_probe import ProbeSet, read_probes
from engine.checkpoints.weights import fingerprint
from engine.errors import CheckpointError
from engine.files.layout import WEIGHTS
from engine.models.showo_config import ShowoConfig
from engine.serving.server import Server


class ServedWeights:
    """The weights of one server, from a checkpoint on disk."""

    def __init__(self, server: Server, config: ShowoConfig, checkpoint: Path, found: str) -> None:
        """`found` is the fingerprint of `checkpoint`, whose tokenizers serve throughout."""
        self._server, self._config = server, config
        self._checkpoint = self._tokenizers = checkpoint
        self.fingerprint = found
        self.version = 0

    def swap(self, checkpoint: Path, verify: Callable[[ProbeSet, Path], None]) -> None:
        """See `Engine.swap`; `verify` raises where the weights that serve give other log-probs."""
        self._server.ready()
        check_swap(checkpoint, self._tokenizers, self._config)
        new, probes = fingerprint(checkpoint), read_probes(checkpoint)
        verified = None if probes is None else partial(verify, probes, checkpoint)
        self._replace(checkpoint, f", the weights from {self._checkpoint} still serve", verified)
        self._checkpoint, self.fingerprint = checkpoint, new
        self.version += 1

    def reload(self) -> None:
        """Loads what served when the engine went to sleep.

        Raises:
            CheckpointError: it cannot be read, or has changed.
        """
        if (found := fingerprint(self._checkpoint)) != self.fingerprint:
            raise CheckpointError(
                f"{self._checkpoint}: holds weights {found}, but {self.fingerprint} served from it when the "
                "engine went to sleep; close it and start a new one"
            )
        self._replace(self._checkpoint)

    def _replace(self, checkpoint: Path, still: str = "", verify: Callable[[], None] | None = None) -> None:
        """Has the workers load a checkpoint and serve it, and keeps it if `verify` raises nothing.

        Each worker lays the weights out aside, exchanges them in one go, and holds the old ones until it is
        told which to keep. Nothing computed from one set is left for the other: caches are reset at each
        exchange. Where the old weights cannot be brought back, or a worker does not answer, the engine serves
        no more.
        """
        failed = f"{checkpoint}: loading failed"
        call = partial(self._server.rpc, failed + still)
        kept = False
        try:
            call("hermes_stage", str(checkpoint / WEIGHTS))
            # This can be refused, so it goes before the exchange; nothing fills the caches in between.
            self._server.reset_caches()
            call("hermes_exchange")
            if verify is not None:
                verify()
            kept = True
        finally:
            with self._server.broken_unless_done(f"{failed}, and it could not be undone"):
                # The verification has filled the caches with keys and values of weights that go back.
                if not kept:
                    self._server.reset_caches()
                self._server.rpc(f"{failed}, and it could not be undone", "hermes_settle", kept)
