"""Checkpoints become what the official scripts read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from official_release import Release, files_of, official_config, official_tensors
from safetensors.torch import load_file
from transformers import PhiConfig

from engine.checkpoints.weights import fingerprint, load_config, save_checkpoint
from engine.errors import CheckpointError
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.official import showo_layout as layout
from engine.official.showo import export_showo, import_showo
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, save_image_tokenizer
from engine.tokenizers.text import word_tokenizer


def test_weights_are_written_for_all_who_may_read_the_rest(release: Release, tmp_path: Path) -> None:
    folder = release.read()
    export_showo(folder, tmp_path / "out")
    for root in (folder, tmp_path / "out"):
        modes = {path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()}
        assert len(modes) == 1


@pytest.mark.parametrize(("image_tokens", "dtype"), [(256, torch.float32), (1024, torch.bfloat16)])
def test_import_of_an_export_is_the_checkpoint_bit_for_bit(
    image_tokens: int, dtype: torch.dtype, tmp_path: Path, parts: Path
) -> None:
    checkpoint = Release(tmp_path, parts, image_tokens).read(dtype=dtype)
    config = load_config(checkpoint)
    config.caption_prompt = "Say what you see:"
    config.save_pretrained(checkpoint)
    out, again = tmp_path / "out", tmp_path / "again"
    export_showo(checkpoint, out)
    import_showo(out, out / "magvitv2", out / "phi", again)
    assert files_of(again) == files_of(checkpoint)
    assert fingerprint(again) == fingerprint(checkpoint)


def test_an_export_is_what_the_official_scripts_read(release: Release, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_showo(release.read(), out)
    written = json.loads((out / "config.json").read_text())
    expected = official_config(256)
    assert {name: written[name] for name in expected.keys() - {"_name_or_path", "llm_model_path"}} == {
        **{name: expected[name] for name in expected.keys() - {"_name_or_path", "llm_model_path"}},
        "load_from_showo": True,
    }
    assert written["llm_model_path"] == str(out / "phi")
    stored = load_file(out / "pytorch_model.safetensors")
    assert {name: list(value.shape) for name, value in stored.items()} == official_tensors(2, 64, 96, 16)
    image = load_file(out / "magvitv2" / "pytorch_model.safetensors")
    source = torch.load(release.vq / "pytorch_model.bin")
    assert image.keys() == source.keys()
    assert all(torch.equal(image[name], source[name]) for name in source)
    merges = json.loads((out / "phi" / "tokenizer.json").read_text())["model"]["merges"]
    assert all(isinstance(one, str) for one in merges)
    assert PhiConfig.from_pretrained(out / "phi").num_hidden_layers == 2


def test_an_export_of_phi_1_5s_sizes_names_it() -> None:
    written = layout.to_official(ShowoConfig(), layout.LLM)
    parsed = layout.parse_config(written, "config.json")
    ours = layout.to_ours(parsed, layout.PhiSizes(), 50256, layout.official_wording())
    named = "USER: \nQuestion:{question} Choice:{choices} ASSISTANT:"
    lengths = {"caption_tokens": 100, "answer_tokens": 100}
    assert ours.to_dict() == ShowoConfig(vqa_choices_prompt=named, **lengths).to_dict()
    assert layout.parse_phi(layout.to_phi(ShowoConfig()), "") == layout.PhiSizes()


def test_what_the_official_code_has_no_model_for_is_not_exported(tmp_path: Path) -> None:
    text = word_tokenizer(["a red cube"])
    config = ShowoConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        text_vocab_size=text.size,
        codebook_size=64,
        num_image_tokens=36,
        bos_token_id=text.size - 1,
    )
    save_checkpoint(Showo(config), tmp_path / "small")
    text.save(tmp_path / "small" / "tokenizer.json")
    save_image_tokenizer(PatchLfq(PatchLfqConfig(bits=6, width=8)), tmp_path / "small" / "image_tokenizer")
    for folder, words in (("small", "is a patch_lfq"), ("nowhere", "is it a Hermes checkpoint?")):
        with pytest.raises(CheckpointError, match=words.replace("?", r"\?")):
            export_showo(tmp_path / folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
