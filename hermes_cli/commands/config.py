"""`hermes config`: every setting, what it means and what it is; also the source of docs/configuration.md."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    import msgspec

HEAD = """# Configuration

Every setting of a run, with the value that a new run begins with. `hermes config` prints this table,
`hermes config --run RUN` the values of a run, and `hermes config --markdown` wrote this page.

They come from these places, each over the last: the defaults, the run's own `run.json`, `--recipe`,
`--config FILE.toml`, `--set table.name=value`, and options such as `--n`. Other names are refused.
"""


class SettingRow(NamedTuple):
    """One setting."""

    path: str
    kind: str
    value: str
    meaning: str


class Section(NamedTuple):
    """The settings of one table."""

    name: str
    """Empty for those outside of all tables."""
    about: str
    rows: list[SettingRow]


def show_config(
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder of a run; without, what a new run begins with.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, as in docs/configuration.md.")
    ] = False,
) -> None:
    """Print all settings, what they mean and what they are."""
    from hermes_cli.recipes import DEFAULT
    from hermes_cli.settings import settle, stored_settings

    if run is None:
        settings = settle(DEFAULT)
    else:
        from hermes_cli.inspection.round import open_run

        settings = stored_settings(open_run(run, whole=True).settings)
    if markdown:
        typer.echo(as_markdown(settings), nl=False)
        return
    _print(settings)


def sections(settings: msgspec.Struct, name: str = "") -> Iterator[Section]:
    """The tables of some settings, outer ones first."""
    import msgspec

    docs, inner = field_docs(type(settings)), []
    rows = []
    for field in msgspec.inspect.type_info(type(settings)).fields:  # type: ignore[attr-defined]
        value = getattr(settings, field.name)
        path = f"{name}.{field.name}".lstrip(".")
        if isinstance(value, msgspec.Struct):
            inner.append((path, value))
        else:
            shown = msgspec.json.encode(value).decode()
            rows.append(SettingRow(path, _kind(field.type), shown, docs.get(field.name, "")))
    about = inspect.getdoc(type(settings)) or ""
    yield Section(name, about.partition("\n\n")[0].replace("\n", " "), rows)
    for path, value in inner:
        yield from sections(value, path)


def field_docs(struct: type) -> dict[str, str]:
    """Field -> the docstring under it, on one line; only the source has it."""
    import msgspec

    tree = ast.parse(inspect.getsource(struct)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for base in struct.__bases__:
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            found |= field_docs(base)
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _kind(kind: Any) -> str:
    """A type as a reader of a configuration wants it."""
    from msgspec import inspect as types

    match kind:
        case types.LiteralType():
            return ", ".join(map(str, kind.values))
        case types.UnionType():
            return " or ".join(map(_kind, kind.types))
        case types.ListType() | types.VarTupleType():
            return f"list of {_kind(kind.item_type)}"
    names: dict[type, str] = {types.StrType: "text", types.BoolType: "true, false", types.NoneType: "null"}
    return names.get(type(kind), type(kind).__name__.removesuffix("Type").lower())


def as_markdown(settings: msgspec.Struct) -> str:
    """docs/configuration.md."""
    parts = [HEAD]
    for name, about, rows in sections(settings):
        parts += [f"\n## {name}\n\n{about}\n"] if name else []
        parts.append("\n| setting | values | default | meaning |\n|---|---|---|---|\n")
        for row in rows:
            cells = (f"`{row.path}`", row.kind, f"`{row.value}`", row.meaning)
            parts.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n")
    return "".join(parts)


def _print(settings: msgspec.Struct) -> None:
    from rich.table import Table
    from rich.text import Text

    from hermes_cli.view import console

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("setting", "value", "meaning"):
        table.add_column(name, no_wrap=name == "setting", overflow="fold")
    for name, about, rows in sections(settings):
        if name:
            table.add_row()
            table.add_row(Text(name, "bold"), "", Text(about, "dim"))
        for row in rows:
            table.add_row(row.path, Text(row.value, "cyan"), Text(row.meaning))
    console.print(table)
