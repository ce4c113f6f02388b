"""Settings of a run: what is left open is settled by its first command."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ConfigError
from hermes_cli.settings import load_settings, parse_assignment, stored_settings


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


def test_settings_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json: "):
        load_settings(tmp_path / "run.json")
    with pytest.raises(ConfigError, match="one of auto, branched, paged"):
        load_settings(tmp_path / "none.json", parse_assignment("engine.sampler=beam"))


def test_a_run_of_an_earlier_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"train": {"steps": 9, "most_visits": 0.0, "image_anchor": 0.0}}')
    for read in (stored_settings, load_settings):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(
            f"{path}: settings of train from an earlier version: most_visits is"
        )
        assert "image_anchor is gone; rename or remove them there, or begin a new run" in str(caught.value)
    with pytest.raises(ConfigError, match=r"settings: .*clip is now max_grad_norm; rename or remove"):
        load_settings(tmp_path / "none.json", parse_assignment("train.clip=1"))
