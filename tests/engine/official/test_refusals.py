"""A release that does not fit is refused in one line, and nothing is written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from official_release import (
    Release,
    edited,
    random_tensors,
    truncated,
    with_tokens,
    write_json,
    write_weights,
)
from tokenizers import Tokenizer, models

from engine.checkpoints.weights import load_config
from engine.official import showo_layout as layout


def test_every_unfit_tensor_is_named_in_one_error(release: Release) -> None:
    state = random_tensors()
    del state["showo.lm_head.bias"], state["showo.model.layers.1.mlp.fc2.weight"]
    state["showo.model.layers.2.mlp.fc1.bias"] = torch.zeros(96)
    state["showo.model.final_layernorm.bias"] = torch.zeros(65)
    state["showo.model.final_layernorm.weight"] = torch.zeros(64, dtype=torch.int32)
    write_weights(release.weights, state, "bin")
    message = release.refusal()
    for words in (
        "unknown showo.model.layers.2.mlp.fc1.bias",
        "missing showo.lm_head.bias",
        "missing showo.model.layers.1.mlp.fc2.weight",
        "showo.model.final_layernorm.bias has shape [65], the model [64]",
        "showo.model.final_layernorm.weight is torch.int32, not of float64, float32, float16 or bfloat16",
    ):
        assert words in message


SPOILED: list[tuple[str, Callable[[Release], object], str]] = [
    ("truncated bin", lambda r: truncated(r.weights / "pytorch_model.bin"), "cut short"),
    ("no weights", lambda r: (r.weights / "pytorch_model.bin").unlink(), "no weights here"),
    (
        "a Git LFS pointer",
        lambda r: (r.weights / "pytorch_model.bin").write_text(
            "version https://git-lfs.github.com/spec/v1\n"
        ),
        "git lfs pull",
    ),
    (
        "a pickle of code",
        lambda r: torch.save({"showo": Release}, r.weights / "pytorch_model.bin"),
        "holds more than tensors",
    ),
    (
        "a training state",
        lambda r: torch.save({"step": 3, "model": {}}, r.weights / "pytorch_model.bin"),
        "not tensors: model, step",
    ),
    ("no config", lambda r: (r.weights / "config.json").unlink(), "no config.json"),
    ("broken config", lambda r: truncated(r.weights / "config.json"), "cannot be read"),
    (
        "another family",
        lambda r: edited(r.weights / "config.json", _class_name="Showo2Qwen2_5"),
        "names Showo2Qwen2_5, not Showo",
    ),
    (
        "the image tokenizer as weights",
        lambda r: shutil.copy(r.vq / "config.json", r.weights / "config.json"),
        "names MAGVITv2, not Showo",
    ),
    (
        "a wrong vocabulary",
        lambda r: edited(r.weights / "config.json", vocab_size=58500),
        "vocab_size is 58500, but 50295 text ids + 10 specials + 8192 codes + 1 mask are 58498",
    ),
    (
        "text where a number belongs",
        lambda r: edited(r.weights / "config.json", vocab_size="58498"),
        "`$.vocab_size`",
    ),
    ("a wrong mask", lambda r: edited(r.weights / "config.json", mask_token_id=1), "mask_token_id is 1"),
    ("too long", lambda r: edited(r.weights / "config.json", num_vq_tokens=2025), "the model has 2048"),
    ("no square", lambda r: edited(r.weights / "config.json", num_vq_tokens=250), "no square"),
    ("no tokenizer", lambda r: (r.phi / "merges.txt").unlink(), "no tokenizer here"),
    ("no blanks", lambda r: (r.phi / "added_tokens.json").unlink(), "has 50257 ids up to 50256"),
    ("a token more", lambda r: with_tokens(r, extra=50295), "has 50296 ids up to 50295"),
    (
        "new tokens in another order",
        lambda r: with_tokens(r, **{"<|soi|>": 50295, "[PAD]": 50296}),
        "[PAD] is id 50296, <|soi|> is id 50295",
    ),
    ("ids with a hole", lambda r: with_tokens(r, extra=60000), "not the next one"),
    (
        "another end",
        lambda r: edited(r.phi / "tokenizer_config.json", eos_token="</s>"),
        "eos_token is '</s>', Phi-1.5's is <|endoftext|>",
    ),
    (
        "not Phi",
        lambda r: edited(r.phi / "config.json", model_type="llama"),
        "'llama', Show-o's text side is 'phi'",
    ),
    ("an unfit Phi", lambda r: edited(r.phi / "config.json", hidden_act="relu"), "hidden_act is 'relu'"),
    (
        "another Phi",
        lambda r: edited(r.phi / "config.json", num_hidden_layers=3),
        "missing showo.model.layers.2.",
    ),
    ("no image tokenizer", lambda r: shutil.rmtree(r.vq), "--vq is the folder of showlab/magvitv2"),
    ("truncated image tokenizer", lambda r: truncated(r.vq / "pytorch_model.bin"), "cut short"),
    (
        "the model as image tokenizer",
        lambda r: shutil.copy(r.weights / "config.json", r.vq / "config.json"),
        "--vq is the folder of showlab/magvitv2",
    ),
    (
        "a folder in the way",
        lambda r: (r.to / "notes").mkdir(parents=True),
        "is there already and is left alone",
    ),
]


@pytest.mark.parametrize(("spoil", "words"), [pytest.param(*one[1:], id=one[0]) for one in SPOILED])
def test_a_release_that_does_not_fit_is_refused_in_one_line(
    release: Release, spoil: Callable[[Release], object], words: str
) -> None:
    spoil(release)
    assert words in release.refusal()


def test_a_file_in_pytorchs_first_format_is_told_from_a_broken_one(release: Release) -> None:
    path = release.weights / "pytorch_model.bin"
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    assert "in PyTorch's format before 1.6" in release.refusal()


@pytest.mark.parametrize("form", ["shards-bin", "shards-st"])
def test_a_missing_a_truncated_and_a_foreign_shard_are_named(form: str, tmp_path: Path, parts: Path) -> None:
    found = Release(tmp_path, parts, form=form)
    second = next(found.weights.glob("*-00002-of-00003.*"))
    truncated(second)
    assert re.search(rf"{re.escape(str(second))}: .*cut short", found.refusal())
    second.unlink()
    assert f"shards are missing: {second.name}" in found.refusal()
    index = next(found.weights.glob("*.index.json"))
    write_json(index, {"weight_map": {"showo.lm_head.bias": "../../elsewhere.bin"}})
    assert "outside its folder" in found.refusal()
    write_json(index, {"weights": {}})
    assert "not an index of shards" in found.refusal()


def test_a_tokenizer_without_an_end_of_text_is_refused(release: Release) -> None:
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        (release.phi / name).unlink()
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(release.phi / "tokenizer.json"))
    assert "has no <|endoftext|>" in release.refusal()


def test_the_wording_of_an_export_is_checked(release: Release, tmp_path: Path) -> None:
    wording = layout.Wording(max_text_len=64, caption_prompt="c", vqa_prompt="{question}")
    (release.weights / "hermes.json").write_bytes(msgspec.json.encode(wording))
    assert load_config(release.read()).max_text_len == 64
    shutil.rmtree(release.to)
    (release.weights / "hermes.json").write_text("{}")
    assert "hermes.json: Object missing required field" in release.refusal()
