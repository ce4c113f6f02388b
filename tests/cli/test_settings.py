"""Settings of a run: what is left open is settled by its first command."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.errors import ConfigError
from hermes_cli.former import FORMER, require_current
from hermes_cli.settings import RunSettings, load_settings, parse_assignment, stored_settings


def test_a_run_keeps_the_text_model_that_its_first_command_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HERMES_MPNET", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    first = load_settings(tmp_path / "run.json").curate.similarity
    monkeypatch.setenv("HERMES_MPNET", str(tmp_path / "mpnet"))
    assert load_settings(tmp_path / "run.json").curate.similarity == first
    assert load_settings(tmp_path / "other.json").curate.similarity == "mpnet"
    given = {"curate": {"similarity": "bert-cls:somewhere", "rules": "official"}}
    found = load_settings(tmp_path / "run.json", given).curate
    assert (found.similarity, found.rules) == ("bert-cls:somewhere", "official")
    assert load_settings(tmp_path / "run.json").curate == found


def test_a_new_run_takes_the_length_of_captions_from_the_models_own_config(tmp_path: Path) -> None:
    for name, config in (("released", '{"caption_tokens": 100}'), ("older", "{}"), ("broken", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        found = load_settings(tmp_path / f"{name}.json", {"model": str(tmp_path / name)})
        assert found.curate.caption.max_tokens == (100 if name == "released" else 32)
    assert load_settings(tmp_path / "embedded.json").curate.caption.max_tokens == 32
    kept = load_settings(tmp_path / "embedded.json", {"model": str(tmp_path / "released")})
    assert kept.curate.caption.max_tokens == 32
    given = {"model": str(tmp_path / "released"), "curate": {"caption": {"max_tokens": 7}}}
    assert load_settings(tmp_path / "given.json", given).curate.caption.max_tokens == 7


def test_settings_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json: "):
        load_settings(tmp_path / "run.json")
    with pytest.raises(ConfigError, match="one of auto, branched, paged"):
        load_settings(tmp_path / "none.json", parse_assignment("engine.sampler=beam"))


def test_a_run_of_an_earlier_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"train": {"steps": 9, "most_visits": 0.0}, "eval": {"paint": {}}}')
    for read in (stored_settings, load_settings):
        with pytest.raises(ConfigError) as error:
            read(path)
        assert str(error.value) == (
            f"{path}: settings of an earlier version: eval.paint is now eval.image, train.most_visits is now "
            "train.max_epochs; rename or remove them there, or begin a new run in another folder"
        )
    with pytest.raises(ConfigError, match=r"settings: .*clip is now train.max_grad_norm; rename or remove"):
        load_settings(tmp_path / "none.json", parse_assignment("train.clip=1"))


def test_former_names_are_refused_all_at_once_and_none_of_them_is_a_setting() -> None:
    today = msgspec.to_builtins(RunSettings())
    for name, now in FORMER.items():
        table, _, leaf = name.partition(".")
        assert leaf not in today[table]
        assert not now or now.partition(".")[2] in today[table]
    require_current(today, "here", "rename them")
    with pytest.raises(ConfigError) as error:
        require_current({"train": {"beta": 1, "clip": 2, "keep_best": True}}, "here", "rename them")
    assert str(error.value) == (
        "here: settings of an earlier version: train.clip is now train.max_grad_norm, "
        "train.keep_best is gone; rename them"
    )
