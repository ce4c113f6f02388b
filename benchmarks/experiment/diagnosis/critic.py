"""How far the model's scores of its own images agree with the pixel oracle's.

By kind of question: how often its answer is the oracle's, how often each finds the image right, and how
often the image that is best by its answers is best by the oracle's. By the score difference of a pair: how
often the oracle, too, finds the winner better.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.experiment.diagnosis.inspected import Inspected, finish, options, write
from curate.evaluation.agreement import Agreement, AnswerAgreement, Choice, Judged, agreement, judge_item
from curate.evaluation.clustered import Estimate, mean
from engine.records import ImagePair, Record

ROUNDING = 1e-9
"""Scores are shares: two equal differences may differ in their last bits."""
EDGES = (0.0, 0.2, 0.34, 0.51, 1.0)
"""Of the bins of score differences: ties alone, then up to each edge."""


class KindRow(Record):
    """One kind of question."""

    kind: str
    answers: AnswerAgreement
    best: Choice | None
    """What choosing by the critic's answers of this kind is worth by the oracle's; None without such items.
    """
    by_chance: Choice | None


class PairRow(Record):
    """Pairs whose score difference lies in one bin."""

    above: float
    """Differences above this..."""
    upto: float
    """...and up to this; ties have both 0."""
    pairs: int
    right: Estimate
    tied: Estimate
    wrong: Estimate
    gained: Estimate
    """The oracle's accuracy of the winner minus the loser's."""


class Report(Record):
    """What was found."""

    run: str
    round: int
    all: Agreement
    kinds: tuple[KindRow, ...]
    pairs: tuple[PairRow, ...]


class Seen(NamedTuple):
    """An item as both judge it, and its pair."""

    judged: Judged
    pair: ImagePair | None


def restricted(item: Judged, kind: str) -> Judged:
    """The item as if questions of one kind alone had been asked, and their answers alone scored it."""
    places = [place for place, question in enumerate(item.questions) if question.kind == kind]
    questions = tuple(item.questions[place] for place in places)
    critic = tuple(tuple(answers[place] for place in places) for answers in item.judge)
    return Judged(
        questions=questions,
        judge=critic,
        oracle=tuple(tuple(answers[place] for place in places) for answers in item.oracle),
        scores=tuple(
            sum(question.answer == one for question, one in zip(questions, answers, strict=True))
            / max(1, len(questions))
            for answers in critic
        ),
    )


def kind_rows(items: Sequence[Judged], whole: Agreement) -> tuple[KindRow, ...]:
    """A row for every kind of question."""
    rows = []
    for kind, answers in whole.by_kind.items():
        found = agreement([restricted(item, kind) for item in items])
        rows.append(
            KindRow(
                kind=kind,
                answers=answers,
                best=found.by_score if found else None,
                by_chance=found.by_chance if found else None,
            )
        )
    return tuple(rows)


def pair_rows(items: Sequence[Seen]) -> tuple[PairRow, ...]:
    """A row for every bin of score differences that has pairs."""
    known = [
        (one.pair.win.score - one.pair.lose.score, one.judged.pair)
        for one in items
        if one.pair is not None and one.judged.pair is not None
    ]
    rows = []
    for low, high in [(0.0, 0.0), *itertools.pairwise(EDGES)]:
        inside = [
            pair
            for score, pair in known
            if (score == 0 if high == 0 else low + ROUNDING < score <= high + ROUNDING)
        ]
        if inside:
            rows.append(
                PairRow(
                    above=low,
                    upto=high,
                    pairs=len(inside),
                    right=mean(float(win > lose) for win, lose in inside),
                    tied=mean(float(win == lose) for win, lose in inside),
                    wrong=mean(float(win < lose) for win, lose in inside),
                    gained=mean(win - lose for win, lose in inside),
                )
            )
    return tuple(rows)


def diagnose(inspected: Inspected) -> Report | None:
    """None where no item has questions and two images."""
    found = [
        Seen(judge_item(item, pair, inspected.decode), pair)
        for item in inspected.items()
        for pair in [inspected.pair(item)]
    ]
    judged = [one.judged for one in found]
    whole = agreement(judged)
    if whole is None:
        return None
    return Report(
        run=inspected.run.name,
        round=inspected.number,
        all=whole,
        kinds=kind_rows(judged, whole),
        pairs=pair_rows(found),
    )


def table(report: Report) -> str:
    """Both tables."""
    lines = [
        f"{'kind':12} {'same answer':>14} {'right: self':>14} {'oracle':>14} {'oracle unsure':>14} "
        "best is best, by chance"
    ]
    whole = report.all
    for name, answers, best, chance in (
        *((row.kind, row.answers, row.best, row.by_chance) for row in report.kinds),
        ("all", whole.answers, whole.by_score, whole.by_chance),
    ):
        cells = [_pm(one) for one in (answers.same, answers.judge, answers.oracle, answers.unclear)]
        chosen = f"{best.selection.value:12.3f} {chance.selection.value:10.3f}" if best and chance else "-"
        lines.append(f"{name:12} {' '.join(cells)} {chosen}")
    lines += ["", f"{'score difference':18} pairs {'right':>14} {'tied':>14} {'wrong':>14} {'gained':>14}"]
    for one in report.pairs:
        name = "0, by likelihood" if not one.upto else f"{one.above:.2f} to {one.upto:.2f}"
        cells = [_pm(found) for found in (one.right, one.tied, one.wrong, one.gained)]
        lines.append(f"{name:18} {one.pairs:5} {' '.join(cells)}")
    return "\n".join(lines)


def _pm(one: Estimate) -> str:
    return f"{one.value:7.3f} ±{one.se:5.3f}".rjust(14)


def draw(report: Report, to: Path) -> None:
    """Shares of right, tied and wrong pairs by score difference; both rates of right answers by kind."""
    from benchmarks.experiment.diagnosis.drawing import legend_below, save, subplots

    figure, (kinds, pairs) = subplots(1, 2, height=3.6)
    places = range(len(report.kinds))
    for offset, side, color, name in (
        (-0.2, "critic", "#1f5aa6", "by the model"),
        (0.2, "oracle", "#c2571a", "by the oracle"),
    ):
        values = [getattr(row.answers, side) for row in report.kinds]
        kinds.barh(
            [place + offset for place in places],
            [one.value for one in values],
            0.38,
            xerr=[2 * one.se for one in values],
            color=color,
            label=name,
            error_kw={"linewidth": 1},
        )
    kinds.set_yticks(places, [row.kind for row in report.kinds])
    kinds.invert_yaxis()
    kinds.set_xlim(0, 1)
    kinds.set_title("painted images: answers that are right", fontsize=9, loc="left")
    legend_below(kinds)
    start = [0.0] * len(report.pairs)
    for side, color in (("right", "#2c8a4b"), ("tied", "#c9c9c9"), ("wrong", "#c03a3a")):
        shares = [getattr(row, side).value for row in report.pairs]
        pairs.bar(range(len(shares)), shares, 0.7, bottom=start, color=color, label=side)
        start = [one + other for one, other in zip(start, shares, strict=True)]
    names = [
        f"up to\n{row.upto:.2f}\n({row.pairs})" if row.upto else f"0\n({row.pairs})" for row in report.pairs
    ]
    pairs.set_xticks(range(len(names)), names, fontsize=8)
    pairs.set_title("pairs by the oracle, by score difference", fontsize=9, loc="left")
    legend_below(pairs, 3)
    save(figure, to)


def main() -> None:
    """Prints, writes, draws."""
    parser = options("critic", __doc__)
    parser.add_argument("--limit", type=int, default=0, help="items; 0 is all")
    given = parser.parse_args()
    report = diagnose(Inspected(given.run, given.round, given.limit))
    if report is None:
        print("no item has questions and two images")
        return
    print(table(report))
    draw(report, given.picture)
    write(report, given.to)


if __name__ == "__main__":
    finish(main)
