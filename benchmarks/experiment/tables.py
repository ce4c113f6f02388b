"""Results as Markdown tables, written between two markers of a page, and as pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from benchmarks.experiment.results import Bounds, Results, Round, RowResult
from benchmarks.speed.bench import plain_parser
from engine.errors import UNREADABLE, DataError, HermesError
from engine.files.atomic import write_file

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
"""Between these the tables stand in a page."""
HEAD = (
    "| row | round | understanding | generation | gap | understanding gained | generation gained | gap cut |",
    "|---|---|---|---|---|---|---|---|",
)
TITLES = {
    "objective": "Objectives and rounds",
    "recipe": "With the item's own image, or pair, as an anchor",
    "embedded": "From the embedded model",
    "candidates": "Candidates an item",
    "": "Other rows",
}


def load_results(path: Path) -> Results:
    """A file of results.

    Raises:
        DataError: it is missing or something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except (OSError, *UNREADABLE) as error:
        raise DataError(f"{path}: no results of an experiment: {error}") from error


def table(rows: Iterable[RowResult]) -> str:
    """A line a round of every row; the base only where a row is nothing else."""
    lines = [*HEAD]
    for row in rows:
        name = f"**{row.title}**" if row.default else row.title
        shown = [one for one in row.rounds if one.round or not row.seeds]
        lines += [_line(name, row, one) for one in shown]
        if not shown:
            lines.append(f"| {name} | | not measured yet | | | | | |")
    return "\n".join(lines)


def _line(name: str, row: RowResult, one: Round) -> str:
    missing = len(row.seeds) - len(one.seeds)
    number = str(one.round) if one.round else "-"
    if missing:
        number += f" ({len(one.seeds)} of {len(row.seeds)} seeds)"
    cells = [
        name,
        number,
        f"{one.und:.3f}",
        f"{one.gen:.3f}",
        f"{one.gap:.3f}",
        _bounded(one.und_gain, one.und_gain_ci, "+.3f"),
        _bounded(one.gen_gain, one.gen_gain_ci, "+.3f"),
        _bounded(one.gap_cut, one.gap_cut_ci, ".0%"),
    ]
    return "| " + " | ".join(cells) + " |"


def _bounded(value: float | None, bounds: Bounds | None, form: str) -> str:
    if value is None or bounds is None:
        return "-"
    return f"{value:{form}} [{bounds[0]:{form}}, {bounds[1]:{form}}]"


def markdown(results: Results) -> str:
    """All tables, with what they were taken on."""
    groups = list(dict.fromkeys(row.group for row in results.rows))
    parts = [_head(results)]
    for group in groups:
        rows = [row for row in results.rows if row.group == group]
        title = TITLES.get(group, group)
        parts += [f"### {title}" if len(groups) > 1 else "", table(rows)]
    return "\n\n".join(part for part in parts if part)


def _head(results: Results) -> str:
    items = sorted({one.items for row in results.rows for one in row.rounds})
    counts = " or ".join(map(str, items)) or "no"
    looks = max((row.looks for row in results.rows), default=0)
    seen = f", looked at {'once' if looks == 1 else f'up to {looks} times'}" if looks else ""
    return (
        f"Measured on {counts} items of the {results.split} split{seen}; brackets are 95% intervals. "
        f"{results.machine.processor.partition(', ')[2]}, one core a run."
    )


def put_between(page: str, text: str) -> str:
    """A page with new text between the two markers.

    Raises:
        DataError: it does not have both once, in this order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise DataError(f"the page has not one {BEGIN} and one {END} after it")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> None:
    """Prints the tables, or writes them into a page, and draws the pictures where they are wanted."""
    parser = plain_parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/experiment.json"))
    parser.add_argument("--into", type=Path, help="page with both markers, such as docs/results.md")
    parser.add_argument("--pictures", type=Path, help="folder of the pictures, such as docs/images")
    given = parser.parse_args()
    try:
        results = load_results(given.results)
        if given.into:
            page = put_between(given.into.read_text(), markdown(results))
            write_file(given.into, page.encode())
        else:
            print(markdown(results))
        if given.pictures:
            from benchmarks.experiment.plots import draw_all

            for path in draw_all(results, given.pictures, given.results.stem):
                print(f"drawn: {path}", file=sys.stderr)
    except (HermesError, OSError) as error:
        sys.exit(f"tables: {error}")


if __name__ == "__main__":
    main()
