"""Whether a round got better, in plain words, which round is the best, and the run in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from curate.evaluation.clustered import Estimate
from curate.evaluation.paired import Difference
from hermes_cli.reporting.records import RoundReport, RunReport, Verdict

BEST_RULE = (
    "the smallest gap among the base and those rounds whose understanding and generation both lie no more "
    "than two standard errors below the base's, paired by item; of equal gaps the earlier round"
)
_NAMES = {"und": "understanding", "gen": "generation", "gap": "the gap"}


def round_verdict(found: Difference) -> tuple[Verdict, str]:
    """What a round's difference from the one before says, in a word and in a sentence.

    Worse: understanding or generation fell, or the gap grew, by more than two standard errors. Better: the
    gap shrank by as much.
    """
    fell = [name for name in ("und", "gen") if _fell(getattr(found, name))]
    if fell or (found.gap.value > 0 and found.gap.clear):
        word: Verdict = "worse"
    else:
        word = "better" if found.gap.clear else "no clear change"
    # What made the verdict stands first.
    names = sorted(_NAMES, key=lambda name: (name not in fell, name != "gap"))
    changes = [_change(_NAMES[name], getattr(found, name)) for name in names]
    clear = [_NAMES[name] for name in names if getattr(found, name).clear]
    beyond = f"{' and '.join(clear) if clear else 'none of them'} by more than twice its error"
    return word, f"{changes[0]}, {changes[1]} and {changes[2]}; {beyond}"


def _fell(one: Estimate) -> bool:
    return one.value < 0 and one.clear


def _change(name: str, one: Estimate) -> str:
    """`generation fell by 0.043 ± 0.015`."""
    if abs(one.value) < 1e-9:
        return f"{name} stayed the same"
    up, down = ("grew", "shrank") if name == "the gap" else ("rose", "fell")
    return f"{name} {up if one.value > 0 else down} by {abs(one.value):.3f} ± {one.se:.3f}"


def best_round(rounds: Sequence[RoundReport]) -> int | None:
    """The best round by BEST_RULE; a round that cannot be compared with the base is not considered."""
    fit = [
        one
        for one in rounds
        if one.round == 0
        or (one.versus_base and not _fell(one.versus_base.und) and not _fell(one.versus_base.gen))
    ]
    return min(fit, key=lambda one: (one.gap, one.round)).round if fit else None


def conclusion(report: RunReport) -> str:
    """The run in a sentence."""
    if not report.rounds:
        return "No round has been measured, so there is no gap to show."
    if report.best is None:
        return "The base has no measurement that counts, so no round can be called the best."
    best = next(one for one in report.rounds if one.round == report.best)
    gap = f"{best.gap:.3f} ± {best.gap_se:.3f}"
    if len(report.rounds) == 1:
        return f"The base model's gap is {gap}; no trained round has been evaluated yet."
    if best.versus_base is None:
        return (
            f"The base is still the best: its gap is {gap}, and no round has a smaller one "
            "without losing understanding or generation."
        )
    moved = best.versus_base.gap
    clear = "" if moved.clear else ", which is within twice its error"
    return (
        f"Round {best.round} is the best: its gap is {gap}, smaller than the base's by "
        f"{-moved.value:.3f} ± {moved.se:.3f}{clear}."
    )
