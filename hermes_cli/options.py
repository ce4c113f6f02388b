"""Options that several commands share, each stated once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hermes_cli.run.folder import RunFolder
    from hermes_cli.settings import RunSettings

DEFAULT_RUN = Path("runs/default")


def setting(
    path: str, help: str, flag: str = "", read: Callable[[Any], object] = lambda value: value, **about: Any
) -> Any:
    """An option that says what `--set path=...` says, called as the setting is unless `flag` is given.

    The command's context keeps all that are given.
    """

    def keep(context: typer.Context, value: object) -> object:
        if value is not None:
            context.ensure_object(dict)[path] = read(value)
        return value

    name = path.rpartition(".")[2].replace("_", "-")
    return typer.Option(flag or f"--{name}", callback=keep, help=help, **about)


def policies(text: str) -> str | list[str]:
    """`--reference` as a setting: a name, or one for each round."""
    return [name.strip() for name in text.split(",")] if "," in text else text


Place = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Folder of the run; without, runs/default.")
]
PlaceOption = Annotated[Path | None, typer.Option("--run", help="The same.")]
Round = Annotated[int, typer.Option("--round", help="Round, from 1.")]
Recipe = Annotated[
    str | None, typer.Option("--recipe", metavar="NAME", help="`default`, which a new run has, or `paper`.")
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="One setting, as key=value.")]

Model = Annotated[str | None, setting("model", "Base checkpoint folder; without, the embedded model.")]
DATA_SETS = (
    "`shapes`, or the path of a data set: JSON, JSON lines, CSV, Parquet, a saved `datasets` folder, "
    "WebDataset. `kind:PATH` says which."
)
Data = Annotated[str | None, setting("data", DATA_SETS)]
Images = Annotated[
    str | None,
    setting(
        "images",
        "Folder that image names start from; without, the data set's own.",
        read=lambda folder: str(Path(folder).expanduser().absolute()),
    ),
]
Seed = Annotated[int | None, setting("seed", "Seed of sampling and training.", show_default="0")]
TrainSeed = Annotated[
    int | None,
    setting("train.seed", "Seed of training: the order of pairs, and the masks.", "--seed"),
]
N = Annotated[int | None, setting("curate.n", "Candidates of each kind for each item.", show_default="8")]
Limit = Annotated[int | None, setting("curate.limit", "Number of items.", min=1, show_default="200")]
EvalLimit = Annotated[int | None, setting("eval.limit", "Number of items.", min=1, show_default="300")]
Select = Annotated[
    int | None,
    setting(
        "curate.select",
        "Number of items that are drawn at random, by --seed; --limit takes the first of them.",
        min=1,
    ),
]
MaxBad = Annotated[
    str | None, setting("curate.max_bad", "Stop when more rows are bad: a share, 1%, or a count, 20.")
]
Questions = Annotated[
    str | None, setting("curate.questions", "TIFA file of questions; without, the data set's own.")
]
Similarity = Annotated[
    str | None, setting("curate.similarity", "Text model: minilm, mpnet, DIR, bert-cls:DIR or bert-mean:DIR.")
]
Rules = Annotated[str | None, setting("curate.rules", "What makes pairs: `paper` or `official`.")]
Workers = Annotated[str | None, setting("curate.workers", "Who samples: `local` or `ray`.")]
Reference = Annotated[
    str | None,
    setting(
        "reference.policy",
        "Whose log-probs training is held against: `previous` or `base`; with commas, one a round.",
        "--reference",
        policies,
        metavar="POLICY",
    ),
]
TrainingRanks = Annotated[
    int | None, setting("reference.ranks", "Processes that train, and that score the reference.", min=1)
]
ReferenceRanks = Annotated[
    int | None, setting("reference.ranks", "Processes that share the pairs and the cores.", min=1)
]


def named_run(argument: Path | None, option: Path | None) -> Path:
    """The run's folder of a command that takes it either way.

    Raises:
        ConfigError: both are given and differ.
    """
    if argument is not None and option is not None and argument != option:
        from engine.errors import ConfigError

        raise ConfigError(f"two runs are named, {argument} and --run {option}; give one")
    return argument or option or DEFAULT_RUN


def new_run(argument: Path | None, option: Path | None) -> Path:
    """The same of a command that makes a run where there is none.

    Raises:
        ConfigError: besides, an argument that names a file, or a folder of other things: data, perhaps.
    """
    from engine.errors import ConfigError

    if argument is not None and "=" in argument.name and not argument.exists():
        raise ConfigError(f"{argument}: no run; a setting needs --set before each of them")
    taken = argument is not None and argument.exists() and not (argument / "run.json").is_file()
    if argument is not None and taken and (argument.is_file() or any(argument.iterdir())):
        raise ConfigError(f"{argument}: no run in it; --data names data, --run a folder for a run")
    return named_run(argument, option)


def run_asked(
    context: typer.Context, exists: bool = False, own: Sequence[str] = ()
) -> tuple[RunFolder, RunSettings]:
    """The run that a command names, which may have to exist, and the settings that it asks for; options that
    give some left them in the context. A stage keeps them, once its checks have passed. `own` are the tables
    and settings that the command goes by; none for all.

    Raises:
        ConfigError: there is no such run, or the settings cannot be used.
    """
    from hermes_cli.run.folder import asked, open_run, require_idle
    from hermes_cli.settings import assign, parse_assignment, read_toml

    named, given = context.params, context.ensure_object(dict)
    root = new_run(named["run"], named["run_option"])
    if not named.get("dry_run"):
        # First, for it takes no time; the locks are taken later.
        require_idle(root, context.info_name or "", named.get("round_number"))
    if exists:
        open_run(root, whole=True)
    if "curate.select" in given:
        # Whoever selects wants all that is selected.
        given.setdefault("curate.limit", 0)
    layers = [read_toml(named["config"])] if named.get("config") else []
    layers += [parse_assignment(text) for text in named.get("assignments") or ()]
    layers += [assign(path, value) for path, value in given.items()]
    folder, settings = asked(root, *layers, recipe=named.get("recipe"))
    if own and not named.get("dry_run"):
        folder.require_own_settings(settings, own, context.info_name or "")
    return folder, settings
