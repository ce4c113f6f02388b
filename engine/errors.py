"""The closed family of errors that Hermes raises for its users.

Every message says what went wrong, where, and what to do about it. The command line catches
`HermesError` once, prints one line and exits with status 1; anything else is a bug.
"""

from __future__ import annotations

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding JSON raises: msgspec leaves bytes that are no UTF-8, and nesting without end, to Python."""


class HermesError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(HermesError):
    """A setting is unknown, of the wrong type, or out of range."""


class DataError(HermesError):
    """A data set, image, question or record file cannot be used as it stands."""


class CheckpointError(HermesError):
    """A checkpoint is missing, incomplete, or does not fit the model."""


class StageOrderError(HermesError):
    """A command was run before the one whose output it needs."""


class StaleError(HermesError):
    """A stored file was computed from other weights, pairs or settings than the present ones."""


class BusyError(HermesError):
    """Another process is at work on the same files."""


class EngineError(HermesError):
    """The serving engine refused a request or failed while working on it."""


class InputError(EngineError):
    """One input of a request does not fit the model; the engine itself is well."""
