"""Releases that understand CLIP features become checkpoints with their tower."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from official_release import (
    CLIP,
    Release,
    files_of,
    official_config,
    random_tensors,
    write_json,
    write_weights,
)
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel

from engine.checkpoints.weights import load_config, load_model
from engine.models.clip_tower import ClipTower, pixels
from engine.official import showo_layout as layout
from engine.official.showo import export_showo, import_showo
from engine.tokenizers.text import TextTokenizer


@pytest.fixture(scope="module")
def whole_clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CLIPModel]:
    """A CLIP folder as openai's is published: text and vision in a .bin, with tables of positions."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    small = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = {**small, "image_size": 40, "patch_size": 8, "hidden_act": "quick_gelu"}
    model = CLIPModel(CLIPConfig(text_config={**small, "vocab_size": 50}, vision_config=vision)).eval()
    state = model.state_dict()
    state["vision_model.embeddings.position_ids"] = torch.arange(26)[None]
    torch.save(state, folder / "pytorch_model.bin")
    old = {**vision, "model_type": "clip_vision_model", "torchscript": False, "pruned_heads": {}}
    write_json(folder / "config.json", {"model_type": "clip", "vision_config": old, "text_config": {}})
    return folder, model


@pytest.mark.parametrize(("name", "image_tokens"), CLIP)
def test_a_clip_variant_becomes_a_checkpoint_with_its_tower(
    name: str, image_tokens: int, tmp_path: Path, parts: Path, whole_clip: tuple[Path, CLIPModel]
) -> None:
    found = Release(tmp_path, parts, image_tokens, clip=True)
    folder = found.read(clip=whole_clip[0])
    config = load_config(folder)
    assert (config.w_clip_vit, config.clip_tokens, config.clip_size) == (True, 25, 24)
    text = TextTokenizer.load(folder / "tokenizer.json")
    assert text.decode(config.system_ids) == layout.SYSTEM_PROMPT
    assert config.vqa_prompt.format(question="Why?") == "USER: Why? ASSISTANT:"
    named = config.vqa_choices_prompt.format(question="Why?", choices=["a"])
    assert named == "USER: Question:Why? Choice:['a'] ASSISTANT:"
    held = load_model(folder).state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in random_tensors(clip=True).items())
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), dtype=np.uint8)
    with torch.no_grad():
        seen = whole_clip[1].vision_model(pixels(image[0], 40)[None], output_hidden_states=True)
    features = ClipTower.load(folder / "clip").features(image)
    np.testing.assert_allclose(features, seen.hidden_states[-2][:, 1:], atol=1e-5)

    export_showo(folder, tmp_path / "out")
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["w_clip_vit"] is True
    theirs = CLIPVisionModel.from_pretrained(tmp_path / "out" / "clip").eval()
    with torch.no_grad():
        again = theirs(pixels(image[0], 40)[None], output_hidden_states=True).hidden_states[-2][:, 1:]
    np.testing.assert_allclose(features, again, atol=1e-5)
    out = tmp_path / "out"
    import_showo(out, out / "magvitv2", out / "phi", tmp_path / "again", clip=out / "clip")
    first, second = files_of(folder), files_of(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] in ([], ["tokenizer.json"])


def test_a_clip_variant_needs_its_tower_and_a_fitting_one(
    tmp_path: Path, parts: Path, whole_clip: tuple[Path, CLIPModel]
) -> None:
    found = Release(tmp_path, parts, clip=True)
    assert "give the folder of openai/clip-vit-large-patch14-336 with --clip" in found.refusal()
    assert "no config.json here; --clip is the folder of openai/clip" in found.refusal(clip=tmp_path)
    assert "model_type is 'phi', CLIP's is 'clip'" in found.refusal(clip=found.phi)
    broken = tmp_path / "broken"
    shutil.copytree(whole_clip[0], broken)
    state = torch.load(broken / "pytorch_model.bin")
    del state["vision_model.pre_layrnorm.weight"]
    torch.save(state, broken / "pytorch_model.bin")
    assert "missing pre_layrnorm.weight" in found.refusal(clip=broken)
    state = random_tensors(clip=True)
    state["mm_projector.0.weight"] = torch.zeros(64, 32)
    write_weights(found.weights, state, "bin")
    assert "mm_projector.0.weight has shape [64, 32], the model [64, 24]" in found.refusal(clip=whole_clip[0])
    write_json(found.weights / "config.json", official_config(256))
    assert "unknown mm_projector.0.bias" in found.refusal()


def test_clip_with_a_release_that_has_none_is_refused(release: Release, tmp_path: Path) -> None:
    assert "leave out --clip" in release.refusal(clip=tmp_path)
