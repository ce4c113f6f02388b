"""Weights through shared memory: the trainer writes them where the engine, another process, maps them.

An engine that wants them so keeps an inbox, a folder under /dev/shm that is its own and which it names in the
environment of the processes that it starts. A publisher leaves one safetensors file there, and beside it
which checkpoint on disk holds the same. The checkpoint stays the durable record: whatever is missing or does
not fit here is loaded from there. A lock, which ends with its process however that ends, says whether an
inbox still has an owner; the next engine removes those that have none.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from torch import Tensor

from engine.checkpoints.weights import FORMAT, file_fingerprint
from engine.errors import CheckpointError
from engine.files.atomic import write_file
from engine.files.layout import WEIGHTS
from engine.files.lock import take
from engine.files.tensors import save_tensors
from engine.records import Record
from engine.transport.delivery import FileDelivery

ROOT = Path("/dev/shm")
INBOX = "HERMES_INBOX"
"""Environment variable: the inbox of the engine that will serve what this process publishes."""
PREFIX = "hermes-weights-"
LOCK, OFFER = "owner.lock", "offer.json"


class Offer(Record):
    """What lies in an inbox."""

    checkpoint: str
    """The folder on disk that holds the same."""
    fingerprint: str
    """Of that folder's weights, as they were read back from there."""


class SharedDelivery(FileDelivery):
    """An offered file: held against the checkpoint's fingerprint, and gone when the swap is over."""

    def __init__(self, inbox: Path, offer: Offer) -> None:
        super().__init__(inbox / WEIGHTS)
        self._inbox, self._offer = inbox, offer

    def fingerprint(self) -> str:
        found = super().fingerprint()
        if found != self._offer.fingerprint:
            raise CheckpointError(
                f"{self._offer.checkpoint}: shared memory holds weights {found}, the checkpoint "
                f"{self._offer.fingerprint}; they are gone now, so the next try loads it from disk"
            )
        return found

    def settled(self) -> None:
        _empty(self._inbox)


class Inbox:
    """An engine's inbox; `close` removes it."""

    def __init__(self, root: Path = ROOT) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getuid()}-", dir=root))
        self._lock = take(self.folder / LOCK, 0o600)
        os.environ[INBOX] = str(self.folder)

    def delivery(self, checkpoint: Path) -> SharedDelivery | None:
        """What is offered for this checkpoint; None where nothing is."""
        try:
            offer = msgspec.json.decode((self.folder / OFFER).read_bytes(), type=Offer)
        except (OSError, msgspec.MsgspecError):
            return None
        return SharedDelivery(self.folder, offer) if Path(offer.checkpoint) == checkpoint.resolve() else None

    def close(self) -> None:
        """Safe to call again."""
        if os.environ.get(INBOX) == str(self.folder):
            del os.environ[INBOX]
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def offer_weights(state: Mapping[str, Tensor], checkpoint: Path) -> bool:
    """Leaves a published checkpoint's tensors in the inbox of the engine that waits for them, if one does.

    Shared memory that is too small is no error, as the checkpoint is on disk. `checkpoint` must have been
    written from the same tensors.
    """
    inbox = Path(os.environ.get(INBOX, ""))
    if not os.environ.get(INBOX) or not inbox.is_dir() or _orphaned(inbox):
        return False
    _empty(inbox)
    size = (checkpoint / WEIGHTS).stat().st_size
    try:
        if size > shutil.disk_usage(inbox).free:
            return False
        save_tensors(state, inbox / WEIGHTS, FORMAT)
        offer = Offer(str(checkpoint.resolve()), file_fingerprint(checkpoint / WEIGHTS))
        write_file(inbox / OFFER, msgspec.json.encode(offer))
    except Exception as error:  # safetensors raises its own
        _empty(inbox)
        print(f"{inbox}: weights were not put there ({error}); they are on disk", file=sys.stderr)
        return False
    return True


def sweep_inboxes(root: Path = ROOT) -> None:
    """Removes this user's inboxes whose engines are gone."""
    for folder in root.glob(f"{PREFIX}{os.getuid()}-*"):
        if _orphaned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _empty(inbox: Path) -> None:
    for path in inbox.iterdir() if inbox.is_dir() else ():
        if path.name != LOCK:
            path.unlink(missing_ok=True)


def _orphaned(inbox: Path) -> bool:
    """Whether nobody holds the inbox; one that is just being made has no lock file yet and is left alone."""
    if not (inbox / LOCK).is_file():
        return False
    lock = take(inbox / LOCK, 0o600)
    if lock is None:
        return False
    os.close(lock)
    return True
