"""`hermes config`, and how options, `--set` and files give the same settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hermes_cli import options
from hermes_cli.commands.config import as_markdown, sections
from hermes_cli.main import app
from hermes_cli.options import run_asked
from hermes_cli.recipes import DEFAULT
from hermes_cli.settings import RunSettings, settle

DOCS = Path(__file__).parents[2] / "docs/configuration.md"


def hermes(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def settings_of(run: Path, *given: str) -> RunSettings:
    """What `hermes run` asks for."""
    command = get_command(app).commands["run"]  # type: ignore[attr-defined]
    return run_asked(command.make_context("run", ["--run", str(run), *given]))[1]


def test_the_page_of_settings_is_what_the_command_writes() -> None:
    wanted = as_markdown(settle(DEFAULT))
    assert DOCS.read_text() == wanted, "write it again: `hermes config --markdown > docs/configuration.md`"
    assert hermes("config", "--markdown") == wanted


def test_every_setting_says_what_it_means() -> None:
    rows = [row for section in sections(RunSettings()) for row in section.rows]
    assert len(rows) > 80
    assert [row.path for row in rows if not row.meaning] == []
    assert all(section.about for section in sections(RunSettings()))


def test_a_run_shows_its_own_values(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"curate": {"n": 37}, "eval": {"image": {"steps": 41}}}')
    printed = [line.split()[:2] for line in hermes("config", "--run", str(tmp_path)).splitlines()]
    assert ["curate.n", "37"] in printed
    assert ["eval.image.steps", "41"] in printed
    assert ["curate.image.steps", "18"] in printed


@pytest.mark.parametrize(
    ("option", "assignment"),
    [
        (("--n", "5"), "curate.n=5"),
        (("--limit", "7"), "curate.limit=7"),
        (("--max-bad", "20"), 'curate.max_bad="20"'),
        (("--workers", "ray"), "curate.workers=ray"),
        (("--reference", "previous, base"), 'reference.policy=["previous", "base"]'),
        (("--ranks", "2"), "reference.ranks=2"),
        (("--seed", "9"), "seed=9"),
        (("--rules", "official"), "curate.rules=official"),
    ],
)
def test_an_option_gives_the_setting_that_set_gives(
    tmp_path: Path, option: tuple[str, ...], assignment: str
) -> None:
    found = [settings_of(tmp_path, *given) for given in (option, ("--set", assignment))]
    assert found[0] == found[1] != settings_of(tmp_path)
    assert settings_of(tmp_path, "--n", "3", "--set", "curate.n=4").curate.n == 3, "an option is over --set"


def test_whoever_selects_takes_all_that_is_selected_unless_limited(tmp_path: Path) -> None:
    for given, wanted in (((), 0), (("--limit", "4"), 4)):
        found = settings_of(tmp_path, "--select", "9", *given).curate
        assert (found.select, found.limit) == (9, wanted)


def test_the_version_is_printed() -> None:
    assert hermes("--version").split()[0] == "hermes"


def test_a_shell_completes_commands_and_options() -> None:
    for typed, wanted in (("hermes cur", "curate"), ("hermes curate --sim", "--similarity")):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        env = {"_HERMES_COMPLETE": "complete_bash", **words}
        done = CliRunner().invoke(app, [], prog_name="hermes", env=env)
        assert done.output.split() == [wanted]


def test_help_gives_the_defaults_that_the_settings_have() -> None:
    settings = RunSettings()
    told = {options.N: settings.curate.n, options.Limit: settings.curate.limit}
    told |= {options.EvalLimit: settings.eval.limit, options.Seed: settings.seed}
    for option, default in told.items():
        assert option.__metadata__[0].show_default == str(default)
