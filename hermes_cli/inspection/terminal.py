"""What `hermes inspect` shows on a terminal: a curation in numbers, its items, or one of them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from curate.evaluation.agreement import Agreement
from curate.evaluation.clustered import Estimate
from curate.store.overview import Overview, PairMarks, SideOverview
from engine.records import CaptionCandidate
from hermes_cli.inspection.items import InspectedItem
from hermes_cli.view import counted, format_estimate, plain_table, printable

WIN, LOSE, FAINT = "green", "red", "dim"
_BARS = (("won", "█", WIN), ("rest", "▒", ""), ("lost", "░", LOSE))


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def summary_view(overview: Overview) -> RenderableType:
    """Counts, reasons and histograms of both sides."""
    table = plain_table(
        "", "captions", "images", title=f"round {overview.round}: {counted(overview.items, 'item')}"
    )
    sides = (overview.captions, overview.images)
    table.add_row("pairs", *(f"{one.pairs} of {overview.items}" for one in sides))
    table.add_row("pairs whose sides score the same", *(str(one.ties) for one in sides))
    table.add_row("items of which several score best", *(str(one.shared_best) for one in sides))
    table.add_row("candidates", *(str(one.candidates) for one in sides))
    table.add_row("mean score", *(_number(one.mean) for one in sides))
    table.add_row("median score", *(_number(one.median) for one in sides))
    reasons = {reason: None for one in sides for reason in one.no_pair}
    if reasons:
        table.add_row(Text("no pair because", FAINT))
    for reason in reasons:
        table.add_row(Text("  " + printable(reason)), *(str(one.no_pair.get(reason, 0)) for one in sides))
    quarantined = [_quarantined(overview.quarantined)] if overview.quarantined else []
    return Group(table, *quarantined, Text(), _histograms(overview))


def _quarantined(reasons: dict[str, int]) -> Table:
    table = plain_table("", "", headed=False)
    table.add_row(Text(f"{counted(sum(reasons.values()), 'row')} quarantined", FAINT))
    for reason, count in list(reasons.items())[:8]:
        table.add_row(Text("  " + printable(reason)), str(count))
    if len(reasons) > 8:
        table.add_row(Text(f"  and {len(reasons) - 8} other reasons", FAINT))
    return table


def _histograms(overview: Overview) -> Table:
    table = plain_table(headed=False)
    table.add_row(*(Text(f"{name} scores", "bold") for name in ("caption", "image")))
    table.add_row(*(_bars(one) for one in (overview.captions, overview.images)))
    legend = Text()
    for (_, block, style), name in zip(_BARS, ("winners", "others", "losers"), strict=True):
        legend.append(block + " ", style).append(name + "  ", FAINT)
    table.add_row(legend)
    return table


def _bars(side: SideOverview, width: int = 22) -> Text:
    """Lines of score, bar and count, the highest score first."""
    bins = side.histogram.merged()
    if not side.candidates:
        return Text("no scores", FAINT)
    digits = 1 if bins.width > 0.09 else 2
    unit = width / max(bins.totals)
    lines = []
    for place in reversed(range(len(bins.totals))):
        bar = Text()
        for name, block, style in _BARS:
            # What is counted shows.
            count = getattr(bins, name)[place]
            bar.append(block * (max(1, round(count * unit)) if count else 0), style)
        bar.pad_right(width + 2 - len(bar))
        lines.append(Text(f"{bins.edge(place):5.{digits}f} ", FAINT) + bar + f"{bins.totals[place]:>6}")
    return Text("\n").join(lines)


def items_view(overview: Overview) -> RenderableType:
    """The listed items with the scores of winner and loser."""
    table = plain_table()
    # Whole where they are not very long: an id is there to be copied.
    width = min(30, max([len("item"), *(len(printable(one.id)) for one in overview.listed)]))
    table.add_column("item", overflow="fold", header_style=FAINT, min_width=width, max_width=width)
    table.add_column("caption", header_style=FAINT)
    for column in ("captions", "images"):
        table.add_column(column, justify="right", no_wrap=True, header_style=FAINT, min_width=11)
    for one in overview.listed:
        table.add_row(
            Text(printable(one.id)),
            Text(printable(one.caption), no_wrap=True, overflow="ellipsis"),
            _outcome(one.captions, one.best_caption),
            _outcome(one.images, one.best_image),
        )
    left = overview.items - len(overview.listed)
    if left <= 0:
        return table
    return Group(table, Text(f"and {left} more: --all lists them, --item ID shows one", FAINT))


def _outcome(marks: PairMarks, best: float | None) -> Text:
    """`winner > loser`, or the best score where there is no pair."""
    if not marks.paired:
        return Text(f"{_number(best, 2)}       ", FAINT)
    relation = " = " if marks.tie else " > "
    return Text.assemble(
        (_number(marks.win_score, 2), WIN), (relation, FAINT), (_number(marks.lose_score, 2), LOSE)
    )


def agreement_view(found: Agreement, judge: str) -> RenderableType:
    """How far the judge agrees with the pixel oracle."""
    title = f"{judge} against the pixel oracle, {found.images} images of {found.items} items"
    table = plain_table("", "", title=title, headed=False)
    score, likely = found.by_score, found.by_likelihood
    lines: list[tuple[str, Estimate | None]] = [
        ("its best image is among the oracle's best", score.selection),
        ("  where likelihood breaks ties", likely.selection if likely else None),
        ("  an image drawn at random is", found.by_chance.selection),
        ("the oracle's accuracy of its best image", score.accuracy),
        ("  where likelihood breaks ties", likely.accuracy if likely else None),
        ("  of an image drawn at random", found.by_chance.accuracy),
        ("  of the oracle's best", found.best.accuracy),
        (f"Kendall's tau-b ({score.without} items have none)", score.rank_correlation),
        ("  where likelihood breaks ties", likely.rank_correlation if likely else None),
        (f"pairs ({found.pairs_right.count:.0f}) the oracle finds right", found.pairs_right),
        ("  tied", found.pairs_tied),
        ("  the wrong way round", found.pairs_wrong),
    ]
    for name, value in lines:
        if value is not None:
            table.add_row(name, format_estimate(value))
    kinds = plain_table("answers", "same", "judge right", "oracle right", "unclear")
    for name, one in (*found.by_kind.items(), ("all", found.answers)):
        cells = map(format_estimate, (one.same, one.judge, one.oracle, one.unclear))
        kinds.add_row(Text(printable(name)), *cells)
    return Group(Text(), table, Text(), kinds, Text("± is one standard error, clustered by item", FAINT))


def item_view(shown: InspectedItem) -> RenderableType:
    """One item: captions, images, and the answers about each image."""
    item = shown.item
    about = [printable(item.id), printable(item.category)]
    about += [counted(item.objects, "object")] if item.objects else []
    return Group(
        Text(" · ".join(one for one in about if one), FAINT),
        Text(printable(item.caption), "bold"),
        Text(printable(shown.sampled_by), FAINT),
        Text(),
        *_captions(shown),
        Text(),
        *_images(shown),
        Text(),
        _questions(shown),
    )


_MARKS = {"won": Text("W", f"bold {WIN}"), "lost": Text("L", f"bold {LOSE}"), "": Text()}


def _why(marks: PairMarks) -> list[Text]:
    return [] if marks.paired else [Text(f"no pair: {printable(marks.reason)}", FAINT)]


def _caption(one: CaptionCandidate) -> str:
    return printable(one.text) + ("" if one.ended else " [cut]")


def _captions(shown: InspectedItem) -> list[RenderableType]:
    marks = shown.marks.captions
    table = plain_table(title="captions")
    for column in ("#", "", "score", "seed", "caption"):
        right = column in ("#", "score", "seed")
        table.add_column(column, justify="right" if right else "left", header_style=FAINT, no_wrap=right)
    for one in sorted(shown.item.captions, key=lambda one: -one.score):
        mark, seed = _MARKS[marks.role(one.index)], Text(str(one.seed), FAINT)
        table.add_row(str(one.index), mark, f"{one.score:.3f}", seed, Text(_caption(one)))
    pair = shown.preference.captions if shown.preference else None
    if pair is not None and marks.lose is None:
        table.add_row("", _MARKS["lost"], f"{pair.lose.score:.3f}", "", Text(_caption(pair.lose)))
        table.add_row("", "", "", "", Text(f"(of round {pair.lose_round})", FAINT))
    return [table, *_why(marks)]


def _images(shown: InspectedItem) -> list[RenderableType]:
    marks, images = shown.marks.images, shown.item.images
    columns: dict[str, list[str]] = {"score": [_number(one.score if one.answers else None) for one in images]}
    if any(one.likelihood is not None for one in images):
        columns["likelihood"] = ["-" if one.likelihood is None else f"{one.likelihood:.3g}" for one in images]
    if shown.oracle_scores:
        columns["oracle"] = [f"{one:.3f}" for one in shown.oracle_scores]
    table = plain_table("#", "", *columns, "seed", title="images")
    for one, *cells in zip(images, *columns.values(), strict=True):
        table.add_row(str(one.index), _MARKS[marks.role(one.index)], *cells, Text(str(one.seed), FAINT))
    if marks.paired and marks.lose is None:
        empty = [""] * (len(columns) - 1)
        table.add_row("", _MARKS["lost"], _number(marks.lose_score), *empty, f"round {marks.lose_round}")
    return [table, *_why(marks)]


def _questions(shown: InspectedItem) -> RenderableType:
    """A line a question: the right answer, a mark for each image, and what the wrong ones were taken for."""
    if not shown.item.questions:
        return Text("no questions", FAINT)
    table = plain_table(title="questions")
    indices = "".join(str(one.index % 10) for one in shown.item.images)
    marked = ["judge\n" + indices, "oracle\n" + indices] if shown.oracle else [indices]
    for column in ("question", "answer", *marked, "wrong answers"):
        table.add_column(column, header_style=FAINT, no_wrap=column in marked, vertical="top")
    for place, question in enumerate(shown.item.questions):
        judges: list[list[str | None]] = [[one.answers[place] for one in shown.item.images]]
        judges += [[answers[place] for answers in shown.oracle]] if shown.oracle else []
        wrong = Text()
        for one in shown.item.images:
            if one.answers[place] != question.answer:
                wrong.append(f"{one.index} ", FAINT).append(printable(one.answers[place]) + "  ", LOSE)
        marks = [_marks(answers, question.answer) for answers in judges]
        table.add_row(Text(printable(question.question)), Text(printable(question.answer)), *marks, wrong)
    return Group(table, Text("?: the oracle sees no answer", FAINT)) if shown.oracle else table


def _marks(answers: Sequence[str | None], right: str) -> Text:
    """A character an image."""
    line = Text()
    for one in answers:
        mark, style = ("?", FAINT) if one is None else ("✓", WIN) if one == right else ("✗", LOSE)
        line.append(mark, style)
    return line
