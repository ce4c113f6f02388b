"""What made the run: commands to make it again, settings, and fingerprints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from curate.store.files import ORIGIN
from hermes_cli.inspection.markup import Markup, tag
from hermes_cli.reporting.records import Report
from hermes_cli.reporting.reproduce import changed, flat
from hermes_cli.reporting.rounds import short_name
from hermes_cli.run.folder import RunFolder

_NAMED = ("precision", "device", "data", "annotations", "questions", "similarity", "choices")


def origins_part(folder: RunFolder, report: Report, numbers: Sequence[int]) -> Markup:
    """Commands, settings with what is not the default on top, and fingerprints of what went in."""
    return tag(
        "section",
        tag("h2", "To make this run again"),
        *_commands(report),
        tag("div", _settings(report.settings), _fingerprints(folder, report, numbers), class_="columns"),
        class_="card",
        id="origins",
    )


def _commands(report: Report) -> list[Markup]:
    if not report.commands:
        return [tag("p", "No round has begun yet.", class_="note")]
    note = (
        "The same weights, data and settings give the same samples, pairs and numbers on the same kind of "
        "machine. Paths are as they were given, so start it in the same folder."
    )
    return [*(tag("pre", one) for one in report.commands), tag("p", note, class_="note")]


def _settings(settings: dict[str, Any]) -> Markup:
    moved = changed(settings)
    every = dict(flat(settings))
    parts = [tag("h3", "Settings that are not the defaults")]
    parts.append(_table(moved) if moved else tag("p", "none", class_="note"))
    summary = tag("summary", f"all {len(every)} settings")
    return tag("div", *parts, tag("details", summary, _table(every)))


def _table(values: dict[str, Any]) -> Markup:
    rows = [
        tag("tr", tag("th", name), tag("td", value if isinstance(value, str) else json.dumps(value)))
        for name, value in values.items()
    ]
    return tag("table", *rows, class_="settings")


def _fingerprints(folder: RunFolder, report: Report, numbers: Sequence[int]) -> Markup:
    weights = {f"weights, {short_name(one.round)}": one.fingerprint for one in report.rounds}
    names = {one.fingerprint: short_name(one.round) for one in reversed(report.rounds)}
    for one in report.rounds:
        for what, found in (("started from", one.started_from), ("reference", one.reference)):
            if found:
                name = f" ({names[found]})" if found in names else ""
                weights[f"{what}, {short_name(one.round)}"] = found + name
    origin = _origin(folder, numbers)
    return tag("div", tag("h3", "Fingerprints"), _table({**weights, **origin}), class_="fingerprints")


def _origin(folder: RunFolder, numbers: Sequence[int]) -> dict[str, str]:
    """What went into the latest curation, as it noted itself."""
    for number in reversed(numbers):
        try:
            found = msgspec.json.decode((folder.curation(number) / ORIGIN).read_bytes(), type=dict)
        except (OSError, msgspec.MsgspecError):
            continue
        return {name: str(found[name]) for name in _NAMED if found.get(name)}
    return {}
