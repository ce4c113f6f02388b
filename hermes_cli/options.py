"""Options that several commands share, each stated once, and what they say as settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

Run = Annotated[Path, typer.Option("--run", help="Folder of the run.")]
Place = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Folder of the run; without, runs/default.")
]
PlaceOption = Annotated[Path | None, typer.Option("--run", help="The same, as other commands have it.")]
Round = Annotated[int, typer.Option("--round", help="Round, from 1.")]
Model = Annotated[
    str | None, typer.Option("--model", help="Base checkpoint folder; without, the embedded model.")
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="`shapes`, or the path of a data set: JSON, JSON lines, CSV, Parquet, a saved `datasets` "
        "folder, WebDataset. `kind:PATH` says which.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME",
        help="Settings that belong together: `default`, which a new run has, or `paper`.",
    ),
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="One setting, as key=value.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of sampling and training.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Number of items.")]
Reference = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="POLICY",
        help="Whose log-probs training is held against: `previous` or `base`; with commas, one a round.",
    ),
]

DEFAULT_RUN = Path("runs/default")


def named_run(argument: Path | None, option: Path | None) -> Path:
    """The run's folder of a command that takes it either way.

    Raises:
        ConfigError: both are given and differ.
    """
    if argument is not None and option is not None and argument != option:
        from engine.errors import ConfigError

        raise ConfigError(f"two runs are named, {argument} and --run {option}; give one")
    return argument or option or DEFAULT_RUN


class Curation(NamedTuple):
    """Options of commands that curate."""

    n: Annotated[int | None, typer.Option("--n", help="Candidates of each kind for each item.")] = None
    limit: Limit = None
    select: Annotated[
        int | None,
        typer.Option(
            "--select",
            min=1,
            help="Size of a random subset, which --seed decides; --limit takes its first items.",
        ),
    ] = None
    max_bad: Annotated[
        str | None,
        typer.Option("--max-bad", help="Stop when more rows are bad: a share, 1%, or a count, 20."),
    ] = None
    model: Model = None
    data: Data = None
    questions: Annotated[
        str | None, typer.Option("--questions", help="TIFA file of questions; without, the data set's own.")
    ] = None
    similarity: Annotated[
        str | None,
        typer.Option("--similarity", help="Text model: minilm, mpnet, DIR, bert-cls:DIR or bert-mean:DIR."),
    ] = None
    rules: Annotated[str | None, typer.Option("--rules", help="What makes pairs: `paper` or `official`.")] = (
        None
    )
    workers: Annotated[str | None, typer.Option("--workers", help="Who samples: `local` or `ray`.")] = None
    recipe: Recipe = None
    config: Config = None
    assignments: Set = None
    seed: Seed = None

    def tree(self, **others: Any) -> dict[str, Any]:
        """The options that were given, and others, as settings.

        Whoever selects wants all that is selected, where no limit is given.
        """
        limit = 0 if self.select is not None and self.limit is None else self.limit
        return options(
            curate__n=self.n,
            curate__limit=limit,
            curate__select=self.select,
            curate__max_bad=self.max_bad,
            curate__questions=self.questions,
            curate__similarity=self.similarity,
            curate__rules=self.rules,
            curate__workers=self.workers,
            model=self.model,
            data=self.data,
            seed=self.seed,
            **others,
        )


def options(**given: Any) -> dict[str, Any]:
    """Options that were given, as a settings tree; `a__b` is table a, key b."""
    tree: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        *tables, leaf = name.split("__")
        inner = tree
        for table in tables:
            inner = inner.setdefault(table, {})
        inner[leaf] = value
    return tree


def policies(text: str | None) -> str | list[str] | None:
    """`--reference` as a setting: a name, or one for each round."""
    if text is None or "," not in text:
        return text
    return [name.strip() for name in text.split(",")]


def with_curation(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `Curation` in the place of its parameter `curation`."""
    hints = get_type_hints(command, include_extras=True)
    shared = get_type_hints(Curation, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, one in inspect.signature(command).parameters.items():
        if name == "curation":
            parameters += [
                inspect.Parameter(
                    field, one.KEYWORD_ONLY, default=Curation._field_defaults[field], annotation=shared[field]
                )
                for field in Curation._fields
            ]
        else:
            parameters.append(one.replace(kind=one.KEYWORD_ONLY, annotation=hints[name]))

    def spread(**given: Any) -> None:
        curation = Curation(**{field: given.pop(field) for field in Curation._fields})
        command(curation=curation, **given)

    spread.__name__, spread.__doc__ = command.__name__, command.__doc__
    spread.__annotations__ = {one.name: one.annotation for one in parameters}
    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return spread
