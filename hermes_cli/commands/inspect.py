"""`hermes inspect`: look into a curation, on the terminal or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_cli.options import Place, PlaceOption, named_run

if TYPE_CHECKING:
    from curate.evaluation.agreement import Agreement
    from curate.store.overview import Overview
    from hermes_cli.inspection.items import Shown
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
    """Look into a curation: scores, pairs, single items, and how far the critic agrees with the oracle."""
    from engine.errors import ConfigError

    if item is not None and numbers is not None:
        raise ConfigError("--json writes the numbers of a whole curation; leave out --item")
    from hermes_cli.inspection.round import open_round

    found = open_round(named_run(run, run_option), round_number)
    if item is not None:
        _one_item(found, item, to)
        return
    from curate.store.overview import read_overview
    from hermes_cli.inspection.terminal import agreement_view, indented, items_view, summary_view
    from hermes_cli.view import console, progress_bar, say

    overview = read_overview(found.folder, found.number, None if everything else LISTED)
    console.print(summary_view(overview))
    compared = None
    if found.oracle:
        with progress_bar("oracle", overview.items) as advance:
            compared = found.agreement(advance)
    if compared is not None:
        console.print(indented(agreement_view(compared, found.critic)))
    console.print(indented(items_view(overview)))
    if numbers is not None:
        _write_numbers(numbers, overview, compared)
        say(f"numbers: {numbers}")
    if to is not None:
        shown = found.first(items)
        heading = f"First {len(shown)} of {overview.items} items" if len(shown) < overview.items else "Items"
        _write_page(found, overview, compared, heading, shown, to)


def _one_item(found: InspectedRound, id_: str, to: Path | None) -> None:
    from hermes_cli.inspection.terminal import item_view
    from hermes_cli.view import console

    shown = found.one(id_)
    console.print(item_view(shown))
    if to is not None:
        from curate.store.overview import read_overview

        overview = read_overview(found.folder, found.number, 0)
        _write_page(found, overview, None, "One item", [shown], to)


def _write_page(
    found: InspectedRound,
    overview: Overview,
    compared: Agreement | None,
    heading: str,
    shown: list[Shown],
    to: Path,
) -> None:
    from engine.files.atomic import write_file
    from hermes_cli.inspection.cards import card
    from hermes_cli.inspection.markup import Markup, join
    from hermes_cli.inspection.page import agreement_part, items_part, overview_part, page
    from hermes_cli.view import progress_bar, say

    cards = []
    with progress_bar("pictures", len(shown)) as advance:
        for place, one in enumerate(shown):
            cards.append(card(one, found.decode, opened=place == 0))
            advance(1)
    body = join(
        overview_part(overview),
        agreement_part(compared, found.critic) if compared else Markup(""),
        items_part(heading, cards),
    )
    write_file(to, page(found.title, found.about, body).encode())
    say(f"page: {to}")


def _write_numbers(path: Path, overview: Overview, compared: Agreement | None) -> None:
    import msgspec

    from engine.files.atomic import write_file
    from hermes_cli.view import encode_pretty

    numbers: dict[str, Any] = msgspec.to_builtins(overview)
    del numbers["rows"]
    write_file(path, encode_pretty({**numbers, "agreement": compared}))
