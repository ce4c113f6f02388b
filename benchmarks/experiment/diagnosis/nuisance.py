"""What differs between winner and loser beside the answers: what a reward might favour without being told.

Each trait of a generated image is compared between winner and loser, of the pairs that the critic chose and
of pairs that the pixel oracle would choose among the same candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.experiment.diagnosis.inspected import (
    Inspected,
    Mean,
    finish,
    mean,
    options,
    shown,
    write,
)
from benchmarks.experiment.diagnosis.scoring import images_alone, score_pairs
from curate.shapes import oracle
from curate.shapes.scene import BACKGROUND, COLORS
from engine.records import Candidates, ImageCandidate, Preference, Record

STRAY = 40.0
"""Distance in RGB, 0 to 255 a channel, from which a pixel is of no clean colour."""
_PALETTE = np.array([BACKGROUND, *COLORS.values()], np.float32)


class Traits(NamedTuple):
    """What is measured of one image."""

    background: float
    """Share of pixels nearest to the background."""
    objects: float
    """Connected objects that are no specks, as the oracle counts them."""
    stray: float
    """Share of foreground pixels that are near no colour of the palette; 0 where there is no foreground."""
    unclear: float
    """Share of objects whose shape or colour the oracle cannot tell; 0 where there are none."""


class Compared(Record):
    """A trait of winners and losers."""

    trait: str
    win: Mean | None
    lose: Mean | None
    difference: Mean | None
    """Winner minus loser, pair by pair."""


class Report(Record):
    """What was found."""

    run: str
    round: int
    draws: int
    """Masks over which log-probs are means."""
    critic: tuple[Compared, ...]
    """Pairs as they were curated."""
    oracle: tuple[Compared, ...]
    """The oracle's best against its worst, where they differ."""


class Chosen(NamedTuple):
    """A pair of images of an item."""

    preference: Preference
    win: ImageCandidate
    lose: ImageCandidate
    accuracies: tuple[float, float]
    """By the oracle."""


def traits(image: NDArray[np.uint8]) -> Traits:
    """The traits of an image [H, W, 3]."""
    distance = ((image.astype(np.float32)[:, :, None] - _PALETTE) ** 2).sum(-1)
    nearest, least = distance.argmin(-1), distance.min(-1) ** 0.5
    foreground = nearest > 0
    seen = oracle.see(image)
    unclear = sum(one.shape is None or one.color is None for one in seen)
    return Traits(
        background=float(1 - foreground.mean()),
        objects=float(len(seen)),
        stray=float((least[foreground] > STRAY).mean()) if foreground.any() else 0.0,
        unclear=unclear / len(seen) if seen else 0.0,
    )


def by_oracle(item: Candidates, accuracies: Sequence[float]) -> tuple[int, int] | None:
    """Places of the oracle's best and worst image, the first of several; None where all are equal."""
    best, worst = max(accuracies), min(accuracies)
    return (accuracies.index(best), accuracies.index(worst)) if best > worst else None


def compare(name: str, win: Sequence[float], lose: Sequence[float]) -> Compared:
    """Both sides' means, and that of the differences."""
    ours, theirs = np.asarray(win, float), np.asarray(lose, float)
    return Compared(trait=name, win=mean(ours), lose=mean(theirs), difference=mean(ours - theirs))


def chosen_pairs(inspected: Inspected) -> tuple[list[Chosen], list[Chosen]]:
    """The critic's pairs, and the oracle's among the same candidates."""
    ours: list[Chosen] = []
    theirs: list[Chosen] = []
    for item in inspected.items():
        preference = inspected.preferences.get(item.id)
        if preference is None or not item.questions or not item.images:
            continue
        pair = preference.images
        sides = [pair.win, pair.lose] if pair else []
        pixels = inspected.decode([image.codes for image in (*item.images, *sides)])
        right = [_accuracy(item, one) for one in pixels]
        if pair is not None:
            ours.append(Chosen(preference, pair.win, pair.lose, (right[-2], right[-1])))
        places = by_oracle(item, right[: len(item.images)])
        if places is not None:
            win, lose = (item.images[place] for place in places)
            theirs.append(Chosen(preference, win, lose, (right[places[0]], right[places[1]])))
    return ours, theirs


def _accuracy(item: Candidates, image: NDArray[np.uint8]) -> float:
    answers = oracle.judge(image, item.questions)
    return sum(q.answer == one for q, one in zip(item.questions, answers, strict=True)) / len(answers)


def compared(inspected: Inspected, pairs: Sequence[Chosen], draws: int) -> tuple[Compared, ...]:
    """Every trait of some pairs."""
    if len(pairs) < 2:
        return ()
    seen = [
        [traits(image) for image in inspected.decode([getattr(one, side).codes for one in pairs])]
        for side in ("win", "lose")
    ]
    rows = [
        compare("oracle accuracy", [one.accuracies[0] for one in pairs], [one.accuracies[1] for one in pairs])
    ]
    rows += [
        compare(name, *([getattr(one, name) for one in side] for side in seen)) for name in Traits._fields
    ]
    preferences = [images_alone(one.preference, one.win, one.lose) for one in pairs]
    scores = score_pairs(inspected.weights, preferences, draws, inspected.settings.train)
    rows.append(compare("log-prob", scores.win.mean(1).tolist(), scores.lose.mean(1).tolist()))
    return tuple(rows)


def diagnose(inspected: Inspected, draws: int) -> Report:
    """Both kinds of pairs."""
    ours, theirs = chosen_pairs(inspected)
    return Report(
        run=inspected.run.name,
        round=inspected.number,
        draws=draws,
        critic=compared(inspected, ours, draws),
        oracle=compared(inspected, theirs, draws),
    )


def table(report: Report) -> str:
    """A line a trait, for both kinds of pairs."""
    lines = []
    for name, rows in (("pairs of the critic", report.critic), ("pairs of the oracle", report.oracle)):
        count = rows[0].difference.count if rows and rows[0].difference else 0
        lines += [f"{name}, {count}", f"  {'':16} {'winner':>18} {'loser':>18} {'winner - loser':>18}"]
        lines += [
            f"  {row.trait:16} {shown(row.win):>18} {shown(row.lose):>18} {shown(row.difference):>18}"
            for row in rows
        ]
    return "\n".join(lines)


def draw(report: Report, to: Path) -> None:
    """Differences in units of each trait's interval: a bar beyond 1 is clear."""
    from benchmarks.experiment.diagnosis.drawing import legend_below, save, subplots

    figure, axes = subplots(1, 1, height=3.2)
    names: list[str] = []
    for offset, rows, color, label in (
        (-0.2, report.critic, "#1f5aa6", "pairs of the critic"),
        (0.2, report.oracle, "#c2571a", "pairs of the oracle"),
    ):
        known = [(row.trait, row.difference) for row in rows if row.difference is not None]
        names = names or [name for name, _ in known]
        values = [one.value / max((one.ci[1] - one.ci[0]) / 2, 1e-9) for _, one in known]
        axes.barh([place + offset for place in range(len(values))], values, 0.38, color=color, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    for edge in (-1, 1):
        axes.axvline(edge, color="0.5", linewidth=0.8, linestyle="--")
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_xlabel("winner minus loser, in halves of its 95% interval", fontsize=8)
    legend_below(axes)
    save(figure, to)


def main() -> None:
    """Prints, writes, draws."""
    parser = options("nuisance", __doc__)
    parser.add_argument("--limit", type=int, default=0, help="items; 0 is all")
    parser.add_argument("--draws", type=int, default=4, help="masks that log-probs are means over")
    given = parser.parse_args()
    report = diagnose(Inspected(given.run, given.round, given.limit), given.draws)
    print(table(report))
    draw(report, given.picture)
    write(report, given.to)


if __name__ == "__main__":
    finish(main)
