"""What `hermes inspect` shows on a terminal: a curation in numbers, its items, or one of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from curate.evaluation.agreement import Agreement, AnswerAgreement
from curate.evaluation.clustered import Estimate
from curate.store.overview import Histogram, Marks, Overview, SideOverview
from hermes_cli.inspection.items import Shown, sampled_by
from hermes_cli.view import printable

WIN, LOSE, FAINT = "green", "red", "dim"
_BARS = (("won", "█", WIN), ("rest", "▒", ""), ("lost", "░", LOSE))


def estimate(one: Estimate) -> str:
    """Value and standard error."""
    return "-" if math.isnan(one.value) else f"{one.value:.3f} ± {one.se:.3f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _plain(title: str = "", headed: bool = True) -> Table:
    """A table without lines."""
    name = Text(printable(title), "bold") if title else None
    return Table(title=name, title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=headed)


def _table(*columns: str, title: str = "", headed: bool = True) -> Table:
    """A table of numbers: its first column to the left and the others to the right."""
    table = _plain(title, headed)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", header_style=FAINT)
    return table


def summary_view(overview: Overview) -> RenderableType:
    """Counts, reasons and histograms of both sides."""
    table = _table("", "captions", "images", title=f"round {overview.round}: {overview.items} items")
    sides = (overview.captions, overview.images)
    rows: tuple[tuple[str, list[str]], ...] = (
        ("pairs", [f"{one.pairs} of {overview.items}" for one in sides]),
        ("pairs whose sides score the same", [str(one.ties) for one in sides]),
        ("items of which several score best", [str(one.shared_best) for one in sides]),
        ("candidates", [str(one.candidates) for one in sides]),
        ("mean score", [_number(one.mean) for one in sides]),
        ("median score", [_number(one.median) for one in sides]),
    )
    for name, values in rows:
        table.add_row(name, *values)
    reasons = {reason: None for one in sides for reason in one.no_pair}
    if reasons:
        table.add_row(Text("no pair because", FAINT))
    for reason in reasons:
        table.add_row(Text("  " + printable(reason)), *(str(one.no_pair.get(reason, 0)) for one in sides))
    parts: list[RenderableType] = [table]
    if overview.quarantined:
        parts.append(_quarantined(overview.quarantined))
    return Group(*parts, Text(), _histograms(overview))


def _quarantined(reasons: dict[str, int]) -> Table:
    table = _plain(headed=False)
    table.add_row(Text(f"{sum(reasons.values())} rows quarantined", FAINT))
    for reason, count in list(reasons.items())[:8]:
        table.add_row(Text("  " + printable(reason)), str(count))
    if len(reasons) > 8:
        table.add_row(Text(f"  and {len(reasons) - 8} other reasons", FAINT))
    return table


def _histograms(overview: Overview) -> Table:
    table = _plain(headed=False)
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
        line = Text(f"{bins.edge(place):5.{digits}f} ", FAINT)
        length = 0
        for cells, block, style in _cells(bins, place, unit):
            line.append(block * cells, style)
            length += cells
        lines.append(line.append(" " * (width + 2 - length)).append(f"{bins.totals[place]:>6}"))
    return Text("\n").join(lines)


def _cells(bins: Histogram, place: int, unit: float) -> Iterator[tuple[int, str, str]]:
    """(number of characters, character, style) of each part of a bar; what is counted shows."""
    for name, block, style in _BARS:
        count = getattr(bins, name)[place]
        yield (max(1, round(count * unit)) if count else 0), block, style


def items_view(overview: Overview) -> RenderableType:
    """The listed items with the scores of winner and loser."""
    table = _plain()
    # Whole where they are not very long: an id is there to be copied.
    width = min(30, max((len(printable(row.id)) for row in overview.rows), default=0))
    table.add_column("item", overflow="fold", header_style=FAINT, min_width=width, max_width=width)
    table.add_column("caption", header_style=FAINT)
    for column in ("captions", "images"):
        table.add_column(column, justify="right", no_wrap=True, header_style=FAINT, min_width=11)
    for row in overview.rows:
        table.add_row(
            Text(printable(row.id)),
            Text(printable(row.caption), no_wrap=True, overflow="ellipsis"),
            _outcome(row.captions, row.best_caption),
            _outcome(row.images, row.best_image),
        )
    left = overview.items - len(overview.rows)
    if left <= 0:
        return table
    return Group(table, Text(f"and {left} more: --all lists them, --item ID shows one", FAINT))


def _outcome(marks: Marks, best: float | None) -> Text:
    """`winner > loser`, or the best score where there is no pair."""
    if not marks.paired:
        return Text(f"{_number(best, 2)}       ", FAINT)
    return (
        Text(f"{marks.win_score:.2f}", WIN)
        .append(" = " if marks.tie else " > ", FAINT)
        .append(f"{marks.lose_score:.2f}", LOSE)
    )


def agreement_view(found: Agreement, critic: str) -> RenderableType:
    """How far the critic agrees with the pixel oracle."""
    title = f"{critic} against the pixel oracle, {found.images} images of {found.items} items"
    table = _table("", "", title=title, headed=False)
    score, likely = found.by_score, found.by_likelihood
    rows: list[tuple[str, Estimate | None]] = [
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
    for name, value in rows:
        if value is not None:
            table.add_row(name, estimate(value))
    kinds = _table("answers", "same", "critic right", "oracle right", "unclear")
    for name, one in (*found.by_kind.items(), ("all", found.answers)):
        kinds.add_row(Text(printable(name)), *_kind(one))
    return Group(table, Text(), kinds, Text("± is one standard error, clustered by item", FAINT))


def _kind(one: AnswerAgreement) -> list[str]:
    return [estimate(each) for each in (one.same, one.critic, one.oracle, one.unclear)]


def item_view(shown: Shown) -> RenderableType:
    """One item: captions, images, and the answers about each image."""
    item = shown.item
    about = [printable(item.id), printable(item.category)]
    about += [f"{item.objects} objects"] if item.objects else []
    return Group(
        Text(" · ".join(one for one in about if one), FAINT),
        Text(printable(item.caption), "bold"),
        Text(printable(sampled_by(shown)), FAINT),
        Text(),
        _captions(shown),
        Text(),
        _images(shown),
        Text(),
        _questions(shown),
    )


def _mark(index: int, marks: Marks) -> Text:
    if index == marks.win:
        return Text("W", f"bold {WIN}")
    return Text("L", f"bold {LOSE}") if index == marks.lose else Text()


def _why(marks: Marks) -> list[Text]:
    return [] if marks.paired else [Text(f"no pair: {printable(marks.reason)}", FAINT)]


def _captions(shown: Shown) -> RenderableType:
    marks = shown.marks.captions
    table = _plain("captions")
    for column in ("#", "", "score", "seed", "caption"):
        right = column in ("#", "score", "seed")
        table.add_column(column, justify="right" if right else "left", header_style=FAINT, no_wrap=right)
    for one in sorted(shown.item.captions, key=lambda one: -one.score):
        table.add_row(
            str(one.index),
            _mark(one.index, marks),
            f"{one.score:.3f}",
            Text(str(one.seed), FAINT),
            Text(printable(one.text)),
        )
    pair = shown.preference.captions if shown.preference else None
    if pair is not None and marks.lose is None:
        lost = pair.lose
        table.add_row("", Text("L", f"bold {LOSE}"), f"{lost.score:.3f}", "", Text(printable(lost.text)))
        table.add_row("", "", "", "", Text(f"(of round {pair.lose_round})", FAINT))
    return Group(table, *_why(marks))


def _images(shown: Shown) -> RenderableType:
    marks = shown.marks.images
    columns = ["#", "", "score"]
    columns += ["likelihood"] if any(one.likelihood is not None for one in shown.item.images) else []
    columns += ["oracle"] if shown.oracle_scores else []
    table = _table(*columns, "seed", title="images")
    for place, one in enumerate(shown.item.images):
        cells = [f"{one.score:.3f}"]
        cells += (
            ["-" if one.likelihood is None else f"{one.likelihood:.2g}"] if "likelihood" in columns else []
        )
        cells += [f"{shown.oracle_scores[place]:.3f}"] if shown.oracle_scores else []
        table.add_row(str(one.index), _mark(one.index, marks), *cells, Text(str(one.seed), FAINT))
    if marks.paired and marks.lose is None:
        lost = Text("L", f"bold {LOSE}")
        table.add_row(
            "", lost, f"{marks.lose_score:.3f}", *[""] * (len(columns) - 3), f"round {marks.lose_round}"
        )
    return Group(table, *_why(marks))


def _questions(shown: Shown) -> RenderableType:
    """A line a question: the right answer, a mark for each image, and what the wrong ones were taken for."""
    if not shown.item.questions:
        return Text("no questions", FAINT)
    table = _plain("questions")
    indices = "".join(str(one.index % 10) for one in shown.item.images)
    marked = ["critic\n" + indices, "oracle\n" + indices] if shown.oracle else [indices]
    for column in ("question", "answer", *marked, "wrong answers"):
        table.add_column(column, header_style=FAINT, no_wrap=column in marked, vertical="top")
    for place, question in enumerate(shown.item.questions):
        judges = [[one.answers[place] for one in shown.item.images]]
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


def indented(view: RenderableType) -> Padding:
    """A view with air above it."""
    return Padding(view, (1, 0, 0, 0))
