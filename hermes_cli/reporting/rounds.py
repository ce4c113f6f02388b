"""The report's first screen: what became of the gap, round by round."""

from __future__ import annotations

from collections.abc import Iterator

from curate.evaluation.clustered import Estimate
from hermes_cli.inspection.charts import sections
from hermes_cli.inspection.markup import Markup, join, tag
from hermes_cli.inspection.page import tile
from hermes_cli.reporting.plots import Line, Point, axis, chart
from hermes_cli.reporting.records import Report, RoundReport


def short_name(number: int) -> str:
    """A round as axes and tables call it."""
    return "base" if number == 0 else f"round {number}"


def signed(value: float, digits: int = 3) -> str:
    """A difference, with a minus sign as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def prose(text: str) -> Markup:
    """Text in which `commands` stand out."""
    return join(*(tag("code", part) if place % 2 else part for place, part in enumerate(text.split("`"))))


def summary_part(report: Report) -> Markup:
    """What came of the run in a sentence, and each round's verdict."""
    verdicts = [
        tag("li", chip(one), tag("span", tag("b", f"Round {one.round}"), f": {one.why}."))
        for one in report.rounds[1:]
    ]
    notes = [tag("li", prose(note[:1].upper() + note[1:] + ".")) for note in report.notes]
    return join(
        tag(
            "section",
            tag("p", conclusion(report), class_="conclusion"),
            tag("ul", *verdicts, class_="verdicts") if verdicts else Markup(""),
            class_="card hero",
        ),
        tag("section", *_tiles(report), class_="tiles") if report.rounds else Markup(""),
        tag("section", tag("h2", "Missing here"), tag("ul", *notes), class_="card notes")
        if notes
        else Markup(""),
    )


def conclusion(report: Report) -> str:
    """The run in a sentence."""
    rounds = {one.round: one for one in report.rounds}
    if report.best is None:
        return "Nothing has been evaluated yet, so there is no gap to show."
    best = rounds[report.best]
    gap = f"{best.gap:.3f} ± {best.gap_se:.3f}"
    if len(rounds) == 1:
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


def chip(one: RoundReport) -> Markup:
    """The verdict of a round."""
    return tag("mark", one.verdict, class_=f"verdict {one.verdict.replace(' ', '-')}")


def _tiles(report: Report) -> Iterator[Markup]:
    best = next(one for one in report.rounds if one.round == report.best)
    yield tile("Best round", short_name(best.round).capitalize(), f"of {report.rounds[-1].round} trained")
    moves = best.versus_base
    for name, value, se, moved in (
        ("Gap", best.gap, best.gap_se, moves and moves.gap),
        ("Understanding", best.und, best.und_se, moves and moves.und),
        ("Generation", best.gen, best.gen_se, moves and moves.gen),
    ):
        below = f"{signed(moved.value)} since the base" if moved else f"± {se:.3f}"
        yield tile(name, f"{value:.3f}", below)
    seconds = sum(one.seconds for one in report.rounds)
    yield tile("Time", duration(seconds), f"{len(report.rounds)} evaluations of {best.items} items")


def duration(seconds: float) -> str:
    """`48 s`, `12 min`, `3 h 05`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d}"


def rounds_part(report: Report) -> Markup:
    """Both charts, and the table with paired differences."""
    if not report.rounds:
        return Markup("")
    legend = tag(
        "div",
        tag("span", tag("i", class_="und"), "understanding"),
        tag("span", tag("i", class_="gen"), "generation"),
        class_="legend",
    )
    charts = tag(
        "section",
        tag("figure", tag("figcaption", tag("h2", "Gap")), _gap_chart(report), class_="card"),
        tag(
            "figure",
            tag("figcaption", tag("h2", "Both sides"), legend),
            _sides_chart(report),
            class_="card",
        ),
        class_="columns",
    )
    return join(charts, _table(report))


def _places(report: Report) -> list[float]:
    return [(place + 0.5) / len(report.rounds) for place in range(len(report.rounds))]


def _across(report: Report) -> list[tuple[float, str]]:
    names = (short_name(one.round) for one in report.rounds)
    return list(zip(_places(report), names, strict=True))


def _told(one: RoundReport, side: str, name: str) -> str:
    return f"{short_name(one.round)}: {name} {getattr(one, side):.4f} ± {getattr(one, side + '_se'):.4f}"


def _gap_chart(report: Report) -> Markup:
    points = tuple(
        Point(
            x=x,
            y=one.gap,
            se=one.gap_se,
            told=_told(one, "gap", "gap"),
            label=f"{one.gap:.3f}",
            marked=one.round == report.best,
        )
        for x, one in zip(_places(report), report.rounds, strict=True)
    )
    scale = axis([one.y + sign * 2 * one.se for one in points for sign in (1, -1)])
    line = Line(points=points, class_="ink", dots=True, thin=True)
    base = report.rounds[0]
    level = base.gap if base.round == 0 and len(points) > 1 else None
    return chart(
        [line], scale, _across(report), "The gap after each round, with standard errors", level=level
    )


def _sides_chart(report: Report) -> Markup:
    places = _places(report)
    lines = []
    for side, name in (("und", "understanding"), ("gen", "generation")):
        points = tuple(
            Point(
                x=x,
                y=getattr(one, side),
                se=getattr(one, f"{side}_se"),
                told=_told(one, side, name),
                label=f"{getattr(one, side):.3f}",
                marked=one.round == report.best,
                below=side == "gen",
            )
            for x, one in zip(places, report.rounds, strict=True)
        )
        lines.append(Line(points=points, class_=side, dots=True))
    scale = axis([one.y + sign * 2 * one.se for line in lines for one in line.points for sign in (1, -1)])
    return chart(
        lines,
        scale,
        _across(report),
        "Understanding and generation after each round, with standard errors",
        band=(lines[0], lines[1]),
    )


def _table(report: Report) -> Markup:
    head = [tag("th", one) for one in ("", "understanding", "generation", "gap", "pairs", "")]
    note = (
        "Differences are paired by held-out item and coloured where they exceed two standard errors. "
        f"± is one standard error, clustered by item; bold bars in the charts are one, thin ones two. "
        f"Generated images are judged by: {report.judge}. The best round has {report.best_rule}."
    )
    table = tag(
        "table", tag("tr", *head), *(_row(one, report.best) for one in report.rounds), class_="rounds"
    )
    return tag(
        "section",
        tag("h2", "Round by round"),
        tag("div", table, class_="scroll"),
        tag("p", note, class_="note"),
        class_="card",
    )


def _row(one: RoundReport, best: int | None) -> Markup:
    name = tag(
        "th",
        short_name(one.round),
        sections(tag("mark", "best", class_="best") if one.round == best else None),
    )
    cells = [
        tag(
            "td",
            tag("b", f"{getattr(one, side):.3f}"),
            tag("span", f" ± {getattr(one, f'{side}_se'):.3f}"),
            *_moves(one, side),
        )
        for side in ("und", "gen", "gap")
    ]
    pairs = "-"
    if one.pairs:
        pairs = f"{one.pairs['captions']} captions, {one.pairs['images']} images"
    verdict = tag("td", chip(one)) if one.verdict else tag("td")
    return tag("tr", name, *cells, tag("td", tag("span", pairs)), verdict)


def _moves(one: RoundReport, side: str) -> Iterator[Markup]:
    """How far a side moved since the round before, and since the base."""
    since = [(one.versus_previous, short_name(one.round - 1))]
    since += [(one.versus_base, "base")] if one.round > 1 else []
    for found, name in since:
        if found is not None:
            moved: Estimate = getattr(found, side)
            good = moved.value < 0 if side == "gap" else moved.value > 0
            colour = ("right" if good else "wrong") if moved.clear else None
            text = f"{signed(moved.value)} ± {moved.se:.3f}"
            yield tag("small", tag("span", text, class_=colour), f" since {name}")
