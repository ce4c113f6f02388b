"""The page of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.sources.images import read_rgb
from curate.store.shards import FOLDER
from engine.errors import HermesError
from engine.files.atomic import write_file
from engine.records import Record
from hermes_cli.inspection.items import InspectedItem, ItemCard, item_card
from hermes_cli.inspection.round import InspectedRound
from hermes_cli.pages.charts import Line, LineChart, Point, axis
from hermes_cli.pages.pictures import EmbeddedPicture, embed
from hermes_cli.pages.render import render_page
from hermes_cli.reporting.gallery import GalleryImage, generated_file, read_gallery, real_file
from hermes_cli.reporting.records import RunReport
from hermes_cli.reporting.reproduce import changed_settings, flat_settings
from hermes_cli.reporting.training import read_training, training_panels
from hermes_cli.reporting.verdict import conclusion
from hermes_cli.run.event_log import read_events
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.state import state
from hermes_cli.view import round_name

CARDS = 4
_AMONG = 24
"""Items from whose beginning the cards are chosen."""
_FROM_ORIGIN = ("precision", "device", "data", "annotations", "questions", "similarity", "choices")


def write_page(folder: RunFolder, report: RunReport, path: Path) -> None:
    """Writes the report as a page.

    Raises:
        DataError: the file cannot be written.
    """
    numbers = folder.begun()
    trained, training_notes = read_training(folder, numbers)
    gallery, gallery_notes = _read_galleries(folder, numbers)
    curated = [one for one in numbers if (folder.curation(one) / FOLDER).is_dir()]
    base = report.rounds[0] if len(report.rounds) > 1 else None
    level = base.gap if base and base.round == 0 else None
    cards, no_cards = _cards(folder, curated[-1] if curated else None)
    page = render_page(
        "report.html.j2",
        title=folder.root.resolve().name,
        about=_about(report),
        report=report,
        conclusion=conclusion(report),
        gap_chart=_chart(report, "The gap after each round", "gap", level=level),
        sides_chart=_chart(report, "Understanding and generation after each round", "und", "gen", band=True),
        gallery=gallery,
        gallery_notes=gallery_notes,
        stored_picture=_stored_picture,
        trained=trained,
        panels=training_panels(trained) if trained else [],
        training_notes=training_notes,
        cards=cards,
        no_cards=no_cards,
        curated=curated[-1] if curated else None,
        history=state(read_events(folder.events)).attempts,
        changed=_as_text(changed_settings(report.settings)),
        settings=_as_text(flat_settings(report.settings)),
        fingerprints=_fingerprints(report) | _origin(folder, curated),
    )
    write_file(path, page)


def _about(report: RunReport) -> str:
    """Data, model and seed in a line."""
    settings = report.settings
    trained = report.rounds[-1].round if report.rounds else 0
    return (
        f"data {settings.get('data', 'shapes')} · model {settings.get('model') or 'embedded'} · "
        f"seed {settings.get('seed', 0)} · {trained} round{'' if trained == 1 else 's'} evaluated"
    )


def _chart(report: RunReport, about: str, *sides: str, **more: Any) -> LineChart:
    """Measures of each round, with standard errors."""
    names = {"gap": "gap", "und": "understanding", "gen": "generation"}
    places = [(place + 0.5) / len(report.rounds) for place in range(len(report.rounds))]
    lines = []
    for side in sides:
        points = []
        for x, one in zip(places, report.rounds, strict=True):
            value, se = getattr(one, side), getattr(one, f"{side}_se")
            title = f"{round_name(one.round)}: {names[side]} {value:.4f} ± {se:.4f}"
            points.append(Point(x=x, y=value, se=se, title=title, ringed=one.round == report.best))
        colour = "ink" if side == "gap" else side
        style = {"thin": side == "gap", "below": side == "gen"}
        lines.append(Line(points=tuple(points), colour=colour, dots=True, **style))
    ends = [one.y + sign * 2 * one.se for line in lines for one in line.points for sign in (1, -1)]
    across = tuple((x, round_name(one.round)) for x, one in zip(places, report.rounds, strict=True))
    return LineChart(
        about=f"{about}, with standard errors", lines=tuple(lines), axis=axis(ends), across=across, **more
    )


class GalleryCell(Record):
    """What one round generated for a prompt, and where the pictures lie."""

    image: GalleryImage
    generated: Path
    real: Path


def _read_galleries(
    folder: RunFolder, numbers: Sequence[int]
) -> tuple[dict[str, dict[int, GalleryCell]], list[str]]:
    """Prompt's id -> round -> what that round generated; and what cannot be read."""
    found: dict[str, dict[int, GalleryCell]] = {}
    notes = []
    for number in numbers:
        pictures = folder.gallery(number)
        try:
            gallery = read_gallery(pictures)
        except HermesError as error:
            notes.append(str(error))
            continue
        for place, one in enumerate(gallery.images if gallery else ()):
            cell = GalleryCell(
                image=one, generated=generated_file(pictures, place), real=real_file(pictures, place)
            )
            found.setdefault(one.id, {})[number] = cell
    return found, notes


def _stored_picture(path: Path) -> EmbeddedPicture | None:
    """A picture from a file; None where it is missing or cannot be read."""
    try:
        return embed(np.asarray(read_rgb(path)))
    except HermesError:
        return None


def _cards(folder: RunFolder, number: int | None) -> tuple[list[ItemCard], str]:
    """Cards of a few items of a curated round, or why there are none."""
    if number is None:
        return [], "No round is curated yet: `hermes curate` samples candidates."
    try:
        found = InspectedRound(folder, number)
        return [item_card(one, found.decode) for one in choose(found.first(_AMONG))], ""
    except HermesError as error:
        return [], f"They cannot be shown: {error}"


def choose(shown: Sequence[InspectedItem], count: int = CARDS) -> list[InspectedItem]:
    """Items with pairs first, each category once before any comes twice; in their order."""
    met: dict[str, int] = {}
    ranked = []
    for place, one in enumerate(shown):
        paired = one.marks.images.paired
        turn = met[one.item.category] = met.get(one.item.category, -1) + paired
        ranked.append(((not paired, turn), place))
    return [shown[place] for place in sorted(place for _, place in sorted(ranked)[:count])]


def _as_text(values: dict[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _fingerprints(report: RunReport) -> dict[str, str]:
    """What was measured, and what each round started from and was held against, by its round where known."""
    names = {one.fingerprint: f" ({round_name(one.round)})" for one in reversed(report.rounds)}
    found = {f"weights, {round_name(one.round)}": one.fingerprint for one in report.rounds}
    for one in report.rounds:
        for what, weights in (("started from", one.started_from), ("reference", one.reference)):
            if weights:
                found[f"{what}, {round_name(one.round)}"] = weights + names.get(weights, "")
    return found


def _origin(folder: RunFolder, curated: Sequence[int]) -> dict[str, str]:
    """What went into the latest curation that says so."""
    from curate.store.origin import read_origin

    for number in reversed(curated):
        try:
            origin = read_origin(folder.curation(number))
        except HermesError:
            continue
        if origin is not None:
            return {name: str(value) for name in _FROM_ORIGIN if (value := getattr(origin, name))}
    return {}
