"""What `hermes run` was last asked for, kept so that `hermes status` knows what is still to come."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engine.files.atomic import write_file
from engine.records import Record


class Asked(Record):
    """`asked.json`."""

    rounds: int
    until: str = ""
    """Goal after which no round follows; empty is none."""
    patience: int = 0
    """Rounds in a row that may pass without a new best one; 0 is any number."""
    ranks: int = 1
    """Processes of training."""
    ended: str = ""
    """Why nothing is left to do; empty while something is."""

    @property
    def words(self) -> str:
        """`9 rounds, until gap < 0.04`."""
        said = [f"{self.rounds} round{'' if self.rounds == 1 else 's'}"]
        said += [f"until {self.until}"] if self.until else []
        said += [f"patience {self.patience}"] if self.patience else []
        said += [f"{self.ranks} ranks"] if self.ranks > 1 else []
        return ", ".join(said)


def read_asked(path: Path) -> Asked | None:
    """What a run was asked for; None where nobody asked, or it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Asked)
    except (OSError, msgspec.MsgspecError):
        return None


def write_asked(path: Path, asked: Asked) -> None:
    """Keeps it."""
    write_file(path, msgspec.json.encode(asked))
