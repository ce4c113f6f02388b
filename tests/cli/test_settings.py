"""Settings of a run: what is left open is settled by its first command."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.errors import ConfigError
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


def test_a_run_from_before_the_sampler_was_the_engines_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for sampler, wanted in (("branched", "auto"), ("paged", "paged")):
        plain = msgspec.to_builtins(RunSettings())
        plain["engine"] = {"dtype": "bfloat16"}
        plain["curate"]["caption"] |= {"sampler": sampler, "max_tokens": 7}
        path.write_bytes(msgspec.json.encode(plain))
        for found in (stored_settings(path), load_settings(path, store=False)):
            assert (found.engine.sampler, found.engine.dtype) == (wanted, "bfloat16")
            assert found.curate.caption.max_tokens == 7


def test_settings_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json: "):
        load_settings(tmp_path / "run.json")
    with pytest.raises(ConfigError, match="one of auto, branched, paged"):
        load_settings(tmp_path / "none.json", parse_assignment("engine.sampler=beam"))
