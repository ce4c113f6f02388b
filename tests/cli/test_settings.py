"""Settings of a run: what is left open is settled by its first command."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.errors import ConfigError
from hermes_cli.former import FORMER, require_current
from hermes_cli.settings import (
    RunSettings,
    Tree,
    load_settings,
    parse_assignment,
    settle,
    store_settings,
    stored_settings,
)


def kept(stored: Path, *layers: Tree) -> RunSettings:
    """What a command asks for, kept as a stage keeps it."""
    settings = load_settings(stored, *layers)
    store_settings(stored, settings)
    return settings


def test_a_run_keeps_the_text_model_that_its_first_command_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HERMES_MPNET", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    first = kept(tmp_path / "run.json").curate.similarity
    monkeypatch.setenv("HERMES_MPNET", str(tmp_path / "mpnet"))
    assert load_settings(tmp_path / "run.json").curate.similarity == first
    assert load_settings(tmp_path / "other.json").curate.similarity == "mpnet"
    given = {"curate": {"similarity": "bert-cls:somewhere", "rules": "official"}}
    found = kept(tmp_path / "run.json", given).curate
    assert (found.similarity, found.rules) == ("bert-cls:somewhere", "official")
    assert load_settings(tmp_path / "run.json").curate == found


def test_a_new_run_takes_the_length_of_captions_from_the_models_own_config(tmp_path: Path) -> None:
    for name, config in (("released", '{"caption_tokens": 100}'), ("older", "{}"), ("broken", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        found = load_settings(tmp_path / f"{name}.json", {"model": str(tmp_path / name)})
        assert found.curate.caption.max_tokens == (100 if name == "released" else 32)
    embedded = load_settings(tmp_path / "embedded.json")
    assert embedded.curate.caption.max_tokens == 32
    store_settings(tmp_path / "embedded.json", embedded)
    kept = load_settings(tmp_path / "embedded.json", {"model": str(tmp_path / "released")})
    assert kept.curate.caption.max_tokens == 32
    given = {"model": str(tmp_path / "released"), "curate": {"caption": {"max_tokens": 7}}}
    assert load_settings(tmp_path / "given.json", given).curate.caption.max_tokens == 7


def test_settings_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    for content in ("{", "[1]", '{"curate": 5}', '{"train": {"objective": "gated_product"}}'):
        (tmp_path / "run.json").write_text(content)
        for read in (load_settings, stored_settings):
            with pytest.raises(ConfigError, match=r"run\.json: ") as error:
                read(tmp_path / "run.json")
            assert "\n" not in str(error.value)
    assert "train.objective is 'gated_product'; it is one of gen" in str(error.value)
    mended = load_settings(tmp_path / "run.json", parse_assignment("train.objective=und"))
    assert mended.train.objective == "und"
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


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.step=5", "there is no setting train.step; did you mean train.steps?"),
        ("curate.image.step=5", "there is no setting curate.image.step; did you mean curate.image.steps?"),
        ("train.steps=many", "train.steps is 'many'; it must be a whole number"),
        ("train.trackers=wandb", "train.trackers is 'wandb'; it must be a list"),
        ("engine.dtype=int8", "engine.dtype is 'int8'; it is one of auto, bfloat16, default, float32"),
        ("seed=-1", "seed is -1; it must be at least 0"),
        ("train.seed=-1", "train: seed is -1, it must be at least 0"),
        ("eval.seed=-1", "eval.seed is -1; it must be at least 0"),
        ("curate.caption.temperature=-1", "curate.caption.temperature is -1.0, it must be 0 or more"),
        ("curate.caption.temperature=nan", "curate.caption.temperature is nan, it must be 0 or more"),
        ("curate.caption.top_p=2", "curate.caption.top_p is 2.0, it must be above 0 and at most 1"),
        ("curate.caption.max_tokens=0", "curate.caption.max_tokens is 0, it must be at least 1"),
        ("curate.image.steps=0", "curate.image.steps is 0, it must be at least 1"),
        ("eval.image.guidance=-1", "eval.image.guidance is -1.0, it must be 0 or more"),
        ("curate.image.schedule=square", "curate.image.schedule is square, it must be cosine, linear, pow2"),
        ("engine.tensor_parallel=0", "engine: tensor_parallel is 0, it must be at least 1"),
        ("engine.max_sequences=0", "engine: max_sequences is 0, it must be at least 1"),
        ("engine.kv_cache_gib=-1", "engine: kv_cache_gib is -1.0, it must be zero or a positive number"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_value(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        settle(parse_assignment(assignment))
    assert said in str(error.value)


@pytest.mark.parametrize("value", ["20", "2024-01-01", "007", "1e3", "true", "1%"])
def test_a_text_setting_takes_its_value_as_it_was_typed(value: str) -> None:
    assert settle(parse_assignment(f"data={value}")).data == value
    assert settle(parse_assignment(f'data="{value}"')).data == value


def test_training_follows_the_runs_seed_unless_it_has_its_own(tmp_path: Path) -> None:
    stored = tmp_path / "run.json"
    assert kept(stored, {"seed": 7}).training.seed == 7
    assert kept(stored, {"seed": 8}).training.seed == 8
    assert kept(stored, {"train": {"seed": 0}}).training.seed == 0
    assert load_settings(stored, {"seed": 9}).training.seed == 0


def test_paths_are_kept_absolute_and_nothing_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "shapes", "minilm", "old"):
        (tmp_path / name).mkdir()
    given = {"model": "photos", "data": "parquet:photos", "curate": {"similarity": "bert-cls:photos"}}
    found = load_settings(tmp_path / "run.json", given)
    here = str(tmp_path / "photos")
    assert (found.model, found.data) == (here, f"parquet:{here}")
    assert found.curate.similarity == f"bert-cls:{here}"
    names = {"model": "nowhere", "data": "shapes", "curate": {"similarity": "minilm"}}
    found = load_settings(tmp_path / "run.json", names)
    assert (found.model, found.data, found.curate.similarity) == ("nowhere", "shapes", "minilm")
    (tmp_path / "run.json").write_text('{"data": "old"}')
    assert load_settings(tmp_path / "run.json", {"data": "old"}).data == "old", "as its curations know it"
