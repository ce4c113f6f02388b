"""The page of a run: one HTML file that needs nothing else, in the design of `hermes inspect`'s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curate.store.shards import FOLDER
from engine.errors import HermesError
from engine.files.atomic import write_file
from hermes_cli.inspection.markup import Markup, join, tag
from hermes_cli.inspection.page import agreement_part, page
from hermes_cli.inspection.round import InspectedRound
from hermes_cli.reporting.groups import groups_part
from hermes_cli.reporting.history import history_part
from hermes_cli.reporting.origins import origins_part
from hermes_cli.reporting.pictures import candidates_part, gallery_part
from hermes_cli.reporting.records import Report
from hermes_cli.reporting.rounds import rounds_part, short_name, summary_part
from hermes_cli.reporting.training import read_training, training_part
from hermes_cli.reporting.work import work_part
from hermes_cli.run.event_log import read_events
from hermes_cli.run.folder import RunFolder
from hermes_cli.run.state import state


def write_page(folder: RunFolder, report: Report, path: Path) -> None:
    """Writes the report as a page.

    Raises:
        DataError: the file cannot be written.
    """
    numbers = folder.begun()
    style = Path(__file__).with_name("report.css").read_text()
    title = folder.root.resolve().name
    body = join(*_parts(folder, report, numbers))
    write_file(path, page(title, _about(report), body, eyebrow="Hermes run", style=style).encode())


def _parts(folder: RunFolder, report: Report, numbers: Sequence[int]) -> list[Markup]:
    latest = _latest_curated(folder, numbers)
    return [
        summary_part(report),
        rounds_part(report),
        gallery_part(folder, numbers),
        groups_part(report),
        training_part(*read_training(folder, numbers)),
        _critic(report),
        candidates_part(latest),
        work_part(report),
        history_part(state(read_events(folder.events)).attempts),
        origins_part(folder, report, numbers),
    ]


def _about(report: Report) -> str:
    """Data, model and seed in a line."""
    settings = report.settings
    said = [
        f"data {settings.get('data', 'shapes')}",
        f"model {settings.get('model') or 'embedded'}",
        f"seed {settings.get('seed', 0)}",
    ]
    trained = report.rounds[-1].round if report.rounds else 0
    said.append(f"{trained} round{'' if trained == 1 else 's'} evaluated")
    return " · ".join(said)


def _latest_curated(folder: RunFolder, numbers: Sequence[int]) -> InspectedRound | None:
    for number in reversed(numbers):
        if (folder.curation(number) / FOLDER).is_dir():
            try:
                return InspectedRound(folder, number)
            except HermesError:
                continue
    return None


def _critic(report: Report) -> Markup:
    """The critic of the latest round against the oracle, and of every round in a line."""
    judged = [one for one in report.rounds if one.agreement]
    if not judged:
        return Markup("")
    head = ("", "random image", "critic's best", "oracle's best", "pairs right", "tied", "wrong way round")
    rows = []
    for one in judged:
        found = one.agreement
        if found is None:
            continue
        cells = (
            found.by_chance.accuracy,
            (found.by_likelihood or found.by_score).accuracy,
            found.best.accuracy,
            found.pairs_right,
            found.pairs_tied,
            found.pairs_wrong,
        )
        rows.append(
            tag(
                "tr",
                tag("th", short_name(one.round)),
                *(tag("td", f"{cell.value:.3f} ± {cell.se:.3f}", class_="number") for cell in cells),
            )
        )
    last = judged[-1]
    note = (
        "The oracle's accuracy of images that are chosen at random, by the critic, and by the oracle itself; "
        "and what it finds of the pairs that trained the round."
    )
    table = tag(
        "table", tag("tr", *(tag("th", one, class_="number") for one in head)), *rows, class_="figures-table"
    )
    every = tag(
        "section",
        tag("h2", "The critic, round by round"),
        tag("div", table, class_="scroll"),
        tag("p", note, class_="note"),
        class_="card",
        id="critic",
    )
    compared = last.agreement
    return join(
        every, agreement_part(compared, f"Round {last.round}: {last.critic}") if compared else Markup("")
    )
