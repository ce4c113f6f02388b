"""`hermes inspect`: look into a curation, on the terminal or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_cli.options import Place, PlaceOption, named_run

if TYPE_CHECKING:
    from curate.evaluation.agreement import Agreement
    from curate.store.overview import Overview
    from hermes_cli.inspection.items import InspectedItem
    from hermes_cli.inspection.round import InspectedRound

LISTED = 20
"""Items that the list shows without --all."""


def inspect_curation(
    run: Place = None,
    run_option: PlaceOption = None,
    round_number: Annotated[
        int | None, typer.Option("--round", help="Round, from 1; without, the latest curated.")
    ] = None,
    item: Annotated[str | None, typer.Option("--item", metavar="ID", help="Show one item.")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE.html", help="Write a page.")] = None,
    items: Annotated[int, typer.Option("--items", min=1, help="Items on the page.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="List all items.")] = False,
    numbers: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers as JSON.")
    ] = None,
) -> None:
    """Look into a curation: scores, pairs, single items, and how far the judge agrees with the oracle."""
    from engine.errors import ConfigError

    if item is not None and numbers is not None:
        raise ConfigError("--json writes the numbers of a whole curation; leave out --item")
    from curate.store.overview import read_overview
    from hermes_cli.inspection.round import open_round
    from hermes_cli.inspection.terminal import agreement_view, item_view, items_view, summary_view
    from hermes_cli.view import console, progress_bar, say

    found = open_round(named_run(run, run_option), round_number)
    if item is not None:
        one = found.one(item)
        console.print(item_view(one))
        if to is not None:
            _write_page(found, read_overview(found.folder, found.number, 0), None, "One item", [one], to)
        return
    overview = read_overview(found.folder, found.number, None if everything else LISTED)
    console.print(summary_view(overview))
    compared = None
    if found.oracle:
        with progress_bar("oracle", overview.items) as advance:
            compared = found.agreement(advance)
        if compared is not None:
            console.print(agreement_view(compared, found.scored_by))
    console.print()
    console.print(items_view(overview))
    if numbers is not None:
        _write_numbers(numbers, overview, compared)
        say(f"numbers: {numbers}")
    if to is not None:
        shown = found.first(items)
        heading = f"First {len(shown)} of {overview.items} items" if len(shown) < overview.items else "Items"
        _write_page(found, overview, compared, heading, shown, to)


def _write_page(
    found: InspectedRound,
    overview: Overview,
    compared: Agreement | None,
    heading: str,
    shown: list[InspectedItem],
    to: Path,
) -> None:
    from engine.files.atomic import write_file
    from hermes_cli.inspection.items import item_card
    from hermes_cli.pages.render import render_page
    from hermes_cli.view import progress_bar, say

    cards = []
    with progress_bar("pictures", len(shown)) as advance:
        for one in shown:
            cards.append(item_card(one, found.decode))
            advance(1)
    page = render_page(
        "curation.html.j2",
        title=found.title,
        about=found.about,
        overview=overview,
        compared=compared,
        judge=found.scored_by,
        heading=heading,
        cards=cards,
    )
    write_file(to, page)
    say(f"page: {to}")


def _write_numbers(path: Path, overview: Overview, compared: Agreement | None) -> None:
    import msgspec

    from engine.files.atomic import write_file
    from hermes_cli.view import encode_pretty

    counts: dict[str, Any] = msgspec.to_builtins(overview)
    del counts["listed"]
    write_file(path, encode_pretty({**counts, "agreement": compared}))
