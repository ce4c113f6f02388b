"""The page of a curation: one HTML file that needs nothing else.

Captions, answers and reasons come from models and data sets. So the page is built by `inspection.markup`,
which escapes them, and its content security policy allows no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from pathlib import Path

from curate.evaluation.agreement import Agreement, AnswerAgreement
from curate.evaluation.clustered import Estimate
from curate.store.overview import Overview
from hermes_cli.inspection.charts import histogram_chart, legend, sections, share_bar, stacked_bar
from hermes_cli.inspection.markup import Markup, join, tag


def page(title: str, about: str, body: Markup, eyebrow: str = "Hermes curation", style: str = "") -> str:
    """A whole document; `style` is added to the pages' own."""
    common, script = (Path(__file__).with_name(name).read_text() for name in ("page.css", "page.js"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("title", title),
        tag("style", Markup(common + style)),
    )
    top = tag("header", tag("p", eyebrow, class_="eyebrow"), tag("h1", title), tag("p", about))
    document = tag(
        "html", head, tag("body", tag("main", top, body), tag("script", Markup(script))), lang="en"
    )
    return f"<!doctype html>\n{document}\n"


def overview_part(overview: Overview) -> Markup:
    """Counts, histograms and reasons."""
    sides = (("Caption scores", overview.captions), ("Image scores", overview.images))
    charts = [
        tag(
            "figure",
            tag("figcaption", tag("h2", name), legend(side.histogram)),
            histogram_chart(side.histogram, name.lower()) if side.candidates else tag("p", "no scores"),
            class_="card",
        )
        for name, side in sides
    ]
    return join(
        tag("section", *_tiles(overview), class_="tiles"),
        tag("section", *charts, class_="columns"),
        _reasons(overview),
    )


def _tiles(overview: Overview) -> Iterable[Markup]:
    whole = overview.items
    bad = sum(overview.quarantined.values())
    yield tile("Items", str(whole), f"{bad} rows quarantined" if bad else "none quarantined")
    for name, side in (("Caption", overview.captions), ("Image", overview.images)):
        ties = f", {side.ties} with equal scores" if side.ties else ""
        share = f"{side.pairs / whole:.0%} of the items" if whole else ""
        yield tile(f"{name} pairs", str(side.pairs), share + ties)
    for name, side in (("caption", overview.captions), ("image", overview.images)):
        median = "" if side.median is None else f"median {side.median:.3f}"
        yield tile(f"Mean {name} score", "-" if side.mean is None else f"{side.mean:.3f}", median)


def tile(name: str, value: str, below: str) -> Markup:
    return tag("div", tag("span", name), tag("strong", value), tag("small", below), class_="card tile")


def _reasons(overview: Overview) -> Markup:
    tables = [
        _counts(f"No pair of {name}", side.no_pair)
        for name, side in (("captions", overview.captions), ("images", overview.images))
    ]
    tables.append(_counts("Quarantined", overview.quarantined))
    shared = [
        tag("p", f"In {side.shared_best} of {overview.items} items several {name} share the best score.")
        for name, side in (("captions", overview.captions), ("images", overview.images))
        if side.shared_best
    ]
    if not any(tables) and not shared:
        return Markup("")
    notes = tag("div", tag("h3", "Equal scores"), *shared) if shared else None
    return tag("section", sections(*(one or None for one in tables), notes), class_="card reasons")


def _counts(name: str, reasons: dict[str, int]) -> Markup:
    if not reasons:
        return Markup("")
    rows = [
        tag("tr", tag("td", reason), tag("td", str(count), class_="number"))
        for reason, count in list(reasons.items())[:10]
    ]
    if len(reasons) > 10:
        rows.append(tag("tr", tag("td", f"and {len(reasons) - 10} other reasons"), tag("td")))
    return tag("div", tag("h3", name), tag("table", *rows))


_ERRORS = "± is one standard error, clustered by item. An unclear picture gives no answer and never agrees."


def agreement_part(found: Agreement, critic: str) -> Markup:
    """How far the critic agrees with the pixel oracle."""
    said = f"{critic} against the pixel oracle: {found.images} images of {found.items} items."
    return tag(
        "section",
        tag("h2", "Does the critic choose well?"),
        tag("p", said, class_="note"),
        tag("div", _choice(found), _answers(found), class_="columns"),
        class_="card",
    )


def _choice(found: Agreement) -> Markup:
    """What the critic's choice is worth."""
    score, likely = found.by_score, found.by_likelihood
    pairs = (("won", found.pairs_right), ("rest", found.pairs_tied), ("lost", found.pairs_wrong))
    entries = [
        tag("span", tag("i", class_=name), f"{label} {_estimate(one)}")
        for (name, one), label in zip(pairs, ("right", "tied", "wrong way round"), strict=True)
    ]
    tau = f"; {score.without} items have none, since one side finds all their images equal."
    tie_broken = f" ({_estimate(likely.rank_correlation)} where likelihood breaks ties)" if likely else ""
    return tag(
        "div",
        tag("h3", "The oracle's accuracy of"),
        _measure("a random image", found.by_chance.accuracy),
        _measure("the critic's best", score.accuracy, "accent"),
        _measure("… ties by likelihood", likely.accuracy, "accent") if likely else Markup(""),
        _measure("the oracle's best", found.best.accuracy),
        tag("h3", "Among the oracle's best images is"),
        _measure("a random image", found.by_chance.selection),
        _measure("the critic's best", score.selection, "accent"),
        _measure("… ties by likelihood", likely.selection, "accent") if likely else Markup(""),
        tag("h3", f"Image pairs by the oracle ({found.pairs_right.count:.0f})"),
        stacked_bar(*((name, one.value) for name, one in pairs)) if found.pairs_right.count else Markup(""),
        tag("div", *entries, class_="legend"),
        tag("h3", "Order of an item's images"),
        tag("p", "Kendall's τ-b ", tag("strong", _estimate(score.rank_correlation)), tie_broken, tau),
    )


def _answers(found: Agreement) -> Markup:
    """Answers by kind of question."""
    kinds = [_kind(name, one) for name, one in (*found.by_kind.items(), ("all", found.answers))]
    columns = ("answers", "same", "right by the critic", "by the oracle", "unclear to the oracle")
    table = tag("table", tag("tr", *(tag("th", one) for one in columns)), *kinds, class_="kinds")
    return tag(
        "div",
        tag("h3", "Answers one by one"),
        tag("div", table, class_="scroll"),
        tag("p", _ERRORS, class_="note"),
    )


def _estimate(one: Estimate) -> str:
    return "-" if math.isnan(one.value) else f"{one.value:.3f} ± {one.se:.3f}"


def _measure(name: str, one: Estimate, class_: str = "") -> Markup:
    return tag(
        "div", tag("span", name), share_bar(one.value, class_), tag("span", _estimate(one)), class_="measure"
    )


def _kind(name: str, one: AnswerAgreement) -> Markup:
    cells = [tag("td", _estimate(each), class_="number") for each in (one.critic, one.oracle, one.unclear)]
    same = tag("td", _estimate(one.same), share_bar(one.same.value, "accent"), class_="number")
    return tag("tr", tag("th", name), same, *cells, class_="whole" if name == "all" else None)


def items_part(heading: str, cards: Iterable[Markup]) -> Markup:
    """The cards, with a bar to find some of them; it appears where scripts run."""
    choices = (
        ("", "all"),
        ("pair-of-images", "image pair"),
        ("no-pair-of-images", "no image pair"),
        ("pair-of-captions", "caption pair"),
        ("differs", "oracle disagrees on the pair"),
    )
    find = tag(
        "div",
        tag("input", type="search", placeholder="Find in captions and answers", aria_label="Find"),
        tag(
            "select",
            *(tag("option", name, value=value) for value, name in choices),
            aria_label="Which items",
        ),
        tag("output"),
        class_="find",
        hidden=True,
    )
    return tag("section", tag("div", tag("h2", heading), find, class_="bar-of-items"), *cards, class_="items")
