"""Settings of a run: what is left open is settled by its first command."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes_cli.settings import load_settings


def test_a_run_keeps_the_text_model_that_its_first_command_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HERMES_MPNET", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    first = load_settings(tmp_path / "run.json", None, [], {}).curate.similarity
    monkeypatch.setenv("HERMES_MPNET", str(tmp_path / "mpnet"))
    assert load_settings(tmp_path / "run.json", None, [], {}).curate.similarity == first
    assert load_settings(tmp_path / "other.json", None, [], {}).curate.similarity == "mpnet"
    given = {"curate": {"similarity": "bert-cls:somewhere", "rules": "official"}}
    found = load_settings(tmp_path / "run.json", None, [], given).curate
    assert (found.similarity, found.rules) == ("bert-cls:somewhere", "official")
    assert load_settings(tmp_path / "run.json", None, [], {}).curate == found
