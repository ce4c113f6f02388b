"""When a run has done enough: a goal that a round reaches, or rounds that no longer help."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from engine.errors import ConfigError
from engine.records import Record
from hermes_cli.reporting.records import RoundReport
from hermes_cli.reporting.verdict import best_round
from hermes_cli.run.event_log import RunRequest

Measure = Literal["gap", "und", "gen"]
_GOAL = re.compile(r"\s*(gap|und|gen)\s*([<>])\s*(\d*\.?\d+(?:e-?\d+)?)\s*")


class Goal(Record):
    """`gap<0.04`: a measure, and the side of a value on which it must lie."""

    measure: Measure
    below: bool
    value: float

    @classmethod
    def parse(cls, text: str) -> Goal:
        """The goal of a text such as `gap<0.04`, `gen>0.5` or `und > 0.9`.

        Raises:
            ConfigError: it is none.
        """
        found = _GOAL.fullmatch(text)
        if found is None:
            raise ConfigError(f"--until {text!r}: give one condition, such as gap<0.04 or gen>0.5 or und>0.9")
        measure, sign, value = found.groups()
        return msgspec.convert({"measure": measure, "below": sign == "<", "value": float(value)}, cls)

    def reached(self, one: RoundReport) -> bool:
        """Whether a round lies on the side that is wanted."""
        found: float = getattr(one, self.measure)
        return found < self.value if self.below else found > self.value

    def __str__(self) -> str:
        return f"{self.measure} {'<' if self.below else '>'} {self.value:.15g}"


def why_stop(request: RunRequest, rounds: Sequence[RoundReport]) -> str:
    """Why nothing more of a request is to be done after these rounds, the base first; empty where there is
    more."""
    last = rounds[-1]
    if last.round == 0:
        return ""
    goal = Goal.parse(request.until) if request.until else None
    if goal is not None and goal.reached(last):
        return f"round {last.round} reaches {goal} with {getattr(last, goal.measure):.3f}"
    best = best_round(rounds)
    if request.patience and best is not None and last.round - best >= request.patience:
        name = "the base" if best == 0 else f"round {best}"
        return f"{name} is still the best after {last.round - best} more rounds"
    return ""
