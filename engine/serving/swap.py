"""Which weights an engine serves, and how others take their place; asleep, it needs less memory for them.

A swap in order: calls are kept out, the manifest is checked whole, weights are laid out aside and exchanged
in one go, listened to, kept or sent back, and only then is the version counted up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from engine.checkpoints.compatibility import check_swap
from engine.checkpoints.swap_probe import Canaries, read_canaries
from engine.checkpoints.weights import fingerprint
from engine.errors import CheckpointError
from engine.models.showo_config import ShowoConfig
from engine.serving.exclusive import Gate
from engine.serving.launch import translated
from engine.serving.server import Server
from engine.serving.vllm_transport import Client, Pushed, Sender
from engine.transport.delivery import Delivery, from_disk
from engine.transport.shared import Inbox, sweep_inboxes


class ServedWeights:
    """The weights of one server, from a checkpoint on disk however they came."""

    def __init__(
        self,
        server: Server,
        gate: Gate,
        config: ShowoConfig,
        checkpoint: Path,
        found: str,
        transport: str,
    ) -> None:
        """`found` is the fingerprint of `checkpoint`, whose tokenizers serve throughout."""
        self._server, self._gate, self._config = server, gate, config
        self._checkpoint = self._tokenizers = checkpoint
        self.fingerprint = found
        self.version = 0
        self.client = Client(partial(server.rpc, "the transport failed"))
        sweep_inboxes()
        self._inbox: Inbox | None = None
        if transport == "shared":
            with translated("there is no shared memory for weights; set engine.transport to disk"):
                self._inbox = Inbox()

    def swap(self, checkpoint: Path, sender: Sender | None, listen: Callable[[Canaries, Path], None]) -> None:
        """See `Engine.swap`; `listen` raises where the weights that serve do not give the canaries."""
        with self._gate.alone("a swap"):
            self._server.ready()
            delivery = self._delivery(checkpoint, sender)
            try:
                check_swap(checkpoint, self._tokenizers, self._config, delivery.manifest)
                new, canaries = delivery.fingerprint(), read_canaries(checkpoint)
                heard = partial(listen, canaries, checkpoint) if canaries is not None else _silent
                self._replace(delivery, heard, f"{checkpoint}: loading failed", self._still())
            finally:
                delivery.settled()
            self._checkpoint, self.fingerprint = checkpoint, new
            self.version += 1

    def sleep(self, level: int) -> None:
        """See `Engine.sleep`."""
        with self._gate.alone("going to sleep"):
            self._server.sleep(level)

    def wake(self) -> None:
        """See `Engine.wake`."""
        with self._gate.alone("waking"):
            self._server.wake(self._reload)

    def close(self) -> None:
        """Gives up shared memory; safe to call again."""
        if self._inbox is not None:
            self._inbox.close()

    def _still(self) -> str:
        return f", the weights from {self._checkpoint} still serve"

    def _delivery(self, checkpoint: Path, sender: Sender | None) -> Delivery:
        if sender is not None:
            return Pushed(checkpoint, fingerprint(checkpoint), sender, self.client)
        offered = self._inbox.delivery(checkpoint) if self._inbox else None
        return offered or from_disk(checkpoint)

    def _reload(self) -> None:
        delivery = from_disk(self._checkpoint)
        if (found := delivery.fingerprint()) != self.fingerprint:
            raise CheckpointError(
                f"{self._checkpoint}: holds weights {found}, but {self.fingerprint} served from it when the "
                "engine went to sleep; close it and start a new one"
            )
        self._replace(delivery, _silent, f"{self._checkpoint}: loading failed", "")

    def _replace(self, delivery: Delivery, listen: Callable[[], None], failed: str, still: str) -> None:
        """Brings weights to the workers, lets them serve, and keeps them if `listen` raises nothing.

        Each worker lays them out aside, exchanges them in one go, and holds the old ones until it is told
        which to keep. Nothing computed from one set is left for the other: caches are reset at each exchange.
        Where the old weights cannot be brought back, or a worker does not answer, the engine serves no more.
        """
        call = partial(self._server.rpc, failed + still)
        kept = False
        try:
            with translated(failed + still):
                delivery.bring(call)
            # This can be refused, so it goes before the exchange; nothing fills the caches in between.
            self._server.reset_caches()
            call("hermes_exchange")
            listen()
            kept = True
        finally:
            with self._server.broken_unless_done(f"{failed}, and it could not be undone"):
                if not kept:
                    self._server.reset_caches()
                self._server.rpc(f"{failed}, and it could not be undone", "hermes_settle", kept)


def _silent() -> None:
    """Nothing to listen to."""
