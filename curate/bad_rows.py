"""When a run must stop because too much of its data is bad."""

from __future__ import annotations

import re

from engine.errors import ConfigError

FEWEST = 100
"""Rows before a share of them is judged."""


def parse_max_bad(text: str) -> tuple[float, bool]:
    """(limit, whether it is a share): "1%" is a share of 0.01, "20" a count, and empty text no limit.

    Raises:
        ConfigError: the text is neither.
    """
    if not text:
        return float("inf"), False
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%|(\d+)", text.strip())
    if match is None or (match[1] and float(match[1]) > 100):
        raise ConfigError(
            f"curate.max_bad is {text!r}; give a share such as 1%, a count such as 20, or nothing"
        )
    return (float(match[1]) / 100, True) if match[1] else (int(match[2]), False)


def too_many_bad(max_bad: str, bad: int, rows: int, ended: bool, first: str = "") -> str:
    """One line that says why a run must stop after `rows` rows with `bad` bad ones; empty where it may go on.

    More bad rows than a count are too many at once; a larger share is so after FEWEST rows, or when the rows
    have `ended`. `first` names the first bad row.
    """
    limit, is_share = parse_max_bad(max_bad)
    if (is_share and (rows < FEWEST and not ended)) or bad <= (limit * rows if is_share else limit):
        return ""
    return (
        f"{bad} of {rows} rows are bad, more than --max-bad {max_bad} allows; "
        f"the first: {first or 'unknown'}; mend the data, or allow more"
    )
