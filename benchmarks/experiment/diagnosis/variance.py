"""How noisy an image's log-prob is over mask draws, and how many draws tell pairs apart.

A pair's difference is log p(winner) - log p(loser) under masks that both share. Over draws it varies within
a pair, by W on average; its mean over all draws varies between pairs, by B. A mean over K draws has noise W
/ K, so the ratio of signal to noise is 1 at K = W / B. Where the round is trained, the same is done for what
Pair-DPO sees: the difference of the log-prob's change under the trained weights.

Legend: P pairs, K mask draws.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.experiment.diagnosis.inspected import Inspected, finish, options, write
from benchmarks.experiment.diagnosis.scoring import Array, PairScores, score_pairs
from benchmarks.experiment.sharing import round_folder
from engine.errors import DataError
from engine.files.layout import WEIGHTS
from engine.records import Record

EDGES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Of the bins of shares of hidden codes."""


class Noise(Record):
    """A number a pair and draw, taken apart."""

    mean: float
    within: float
    """W: variance over the draws of a pair, mean over pairs."""
    between: float
    """B: variance of the pairs' means, less what W adds to it; at least 0."""
    draws_for_one: float | None
    """K = W / B; None where pairs do not differ."""


class Bin(Record):
    """Draws that hide about as many codes."""

    above: float
    upto: float
    draws: int
    log_prob: float
    """Mean of winners and losers, nats."""
    log_prob_sd: float
    """Over these draws, within an image."""
    difference_sd: float
    """Of winner minus loser over these draws, within a pair."""
    between_sd: float
    """Of a pair's mean over these draws, between pairs."""


class Report(Record):
    """What was found."""

    run: str
    round: int
    pairs: int
    draws: int
    log_prob: Noise
    """Of winners and losers alike, image by image."""
    difference: Noise
    change: Noise | None
    """Of the trained weights' log-ratio difference; None where the round is not trained."""
    bins: tuple[Bin, ...]


def noise(values: Array) -> Noise:
    """Values [P, K] as variance within and between pairs."""
    P, K = values.shape
    if P < 2 or K < 2:
        raise DataError(f"variance needs two pairs and two draws, there are {P} and {K}")
    within = float(values.var(axis=1, ddof=1).mean())
    between = max(0.0, float(values.mean(1).var(ddof=1)) - within / K)
    return Noise(
        mean=round(float(values.mean()), 5),
        within=round(within, 5),
        between=round(between, 5),
        draws_for_one=round(within / between, 3) if between > 0 else None,
    )


def bins(scores: PairScores) -> tuple[Bin, ...]:
    """By the share of codes that are hidden; pairs with fewer than two such draws are left out."""
    found = []
    difference = scores.win - scores.lose
    for low, high in itertools.pairwise(EDGES):
        inside = (scores.hidden > low) & (scores.hidden <= high)
        rows = [row for row in range(len(inside)) if inside[row].sum() > 1]
        if len(rows) < 2:
            continue
        parts = [difference[row][inside[row]] for row in rows]
        sides = [side[row][inside[row]] for side in (scores.win, scores.lose) for row in rows]
        found.append(
            Bin(
                above=low,
                upto=high,
                draws=int(sum(len(part) for part in parts)),
                log_prob=round(float(np.mean(np.concatenate(sides))), 4),
                log_prob_sd=_pooled(sides),
                difference_sd=_pooled(parts),
                between_sd=round(float(np.std([part.mean() for part in parts], ddof=1)), 4),
            )
        )
    return tuple(found)


def _pooled(parts: list[Array]) -> float:
    """Standard deviation within the parts."""
    squares = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
    freedom = sum(len(part) - 1 for part in parts)
    return round((squares / freedom) ** 0.5, 4)


def change(before: PairScores, after: PairScores) -> Array:
    """Winner's less loser's gain in log-prob, [P, K]."""
    return (after.win - before.win) - (after.lose - before.lose)


def diagnose(inspected: Inspected, count: int, draws: int) -> Report:
    """Scores the first pairs of images under many masks."""
    known = [one for one in inspected.preferences.values() if one.images is not None][: count or None]
    preferences = [msgspec.structs.replace(one, captions=None) for one in known]
    config = inspected.settings.train
    scores = score_pairs(inspected.weights, preferences, draws, config)
    trained = round_folder(inspected.run, inspected.number) / "checkpoint"
    moved = None
    if (trained / WEIGHTS).is_file():
        moved = noise(change(scores, score_pairs(trained, preferences, draws, config)))
    return Report(
        run=inspected.run.name,
        round=inspected.number,
        pairs=len(preferences),
        draws=draws,
        log_prob=noise(np.concatenate([scores.win, scores.lose])),
        difference=noise(scores.win - scores.lose),
        change=moved,
        bins=bins(scores),
    )


def table(report: Report) -> str:
    """Both tables."""
    lines = [f"{report.pairs} pairs, {report.draws} draws, nats"]
    lines.append(f"{'':24} {'mean':>9} {'within W':>10} {'between B':>10} {'K for 1':>8}")
    named = (
        ("log-prob of an image", report.log_prob),
        ("winner - loser", report.difference),
        ("its change by training", report.change),
    )
    for name, one in named:
        if one is not None:
            needed = "-" if one.draws_for_one is None else f"{one.draws_for_one:.2f}"
            lines.append(f"{name:24} {one.mean:9.3f} {one.within:10.3f} {one.between:10.3f} {needed:>8}")
    lines += ["", f"{'hidden':14} draws  log-prob   its sd   sd of winner - loser   between pairs"]
    lines += [
        f"{one.above:.2f} to {one.upto:.2f} {one.draws:7} {one.log_prob:9.2f} {one.log_prob_sd:8.2f} "
        f"{one.difference_sd:22.2f} {one.between_sd:15.2f}"
        for one in report.bins
    ]
    return "\n".join(lines)


def draw(report: Report, to: Path) -> None:
    """Spreads by the share of codes hidden; signal to noise by the number of draws."""
    from benchmarks.experiment.diagnosis.drawing import legend_below, save, subplots

    figure, (spread, ratio) = subplots(1, 2, height=3.2)
    middles = [(one.above + one.upto) / 2 for one in report.bins]
    for field, color, marker, name in (
        ("log_prob_sd", "#8a8a8a", "^", "an image, over masks"),
        ("difference_sd", "#c2571a", "s", "winner - loser, over masks"),
        ("between_sd", "#1f5aa6", "o", "winner - loser, between pairs"),
    ):
        values = [getattr(one, field) for one in report.bins]
        spread.plot(middles, values, color=color, marker=marker, markersize=4, label=name)
    spread.set_xlabel("share of codes hidden", fontsize=8)
    spread.set_title("standard deviation, nats", fontsize=9, loc="left")
    spread.set_ylim(bottom=0)
    legend_below(spread, 1)
    draws = np.arange(1, 33)
    for one, color, style, name in (
        (report.difference, "#1f5aa6", "-", "winner - loser"),
        (report.change, "#c2571a", "--", "its change by training"),
    ):
        if one is not None and one.draws_for_one:
            ratio.plot(draws, draws / one.draws_for_one, color=color, linestyle=style, label=name)
    ratio.axhline(1, color="0.5", linewidth=0.8)
    ratio.set_xlabel("mask draws K", fontsize=8)
    ratio.set_title("signal to noise, B K / W", fontsize=9, loc="left")
    ratio.set_xscale("log", base=2)
    ratio.set_yscale("log")
    legend_below(ratio)
    save(figure, to)


def main() -> None:
    """Prints, writes, draws."""
    parser = options("variance", __doc__)
    parser.add_argument("--pairs", type=int, default=200, help="of images; 0 is all")
    parser.add_argument("--draws", type=int, default=16)
    given = parser.parse_args()
    report = diagnose(Inspected(given.run, given.round), given.pairs, given.draws)
    print(table(report))
    draw(report, given.picture)
    write(report, given.to)


if __name__ == "__main__":
    finish(main)
