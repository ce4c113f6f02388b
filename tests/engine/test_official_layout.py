"""Official releases: files with the exact official names and configurations, read, refused, written back.

The releases here have the official vocabulary, image sizes and file layouts, and a transformer and an image
tokenizer of a few random weights.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel, CodeGenTokenizer, PhiConfig

from engine.errors import CheckpointError
from engine.models.clip_tower import ClipTower, pixels
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.official import showo_layout as layout
from engine.official.showo import export_showo, import_showo
from engine.official.whole_folder import whole_folder
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, load_image_tokenizer, save_image_tokenizer
from engine.tokenizers.magvit_v2 import MagvitV2, MagvitV2Config
from engine.tokenizers.magvit_v2_blocks import StackConfig
from engine.tokenizers.text import TextTokenizer, word_tokenizer
from engine.weights import fingerprint, load_config, load_model, save_checkpoint

TEXT, CODES, VOCABULARY = 50295, 8192, 58498
PHI = {
    "model_type": "phi",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": None,
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0,
    "hidden_act": "gelu_new",
    "qk_layernorm": False,
    "tie_word_embeddings": False,
    "vocab_size": 51200,
}
STACK = {"ch": 32, "ch_mult": [1, 1, 1, 1, 1], "num_res_blocks": [1, 1, 1, 1, 1], "z_channels": 13}
SERVED = [
    ("show-o", 256),
    ("show-o-512x512", 1024),
    ("show-o-512x512-wo-llava-tuning", 1024),
    ("HermesFlow", 1024),
]
CLIP = [("show-o-w-clip-vit", 256), ("show-o-w-clip-vit-512x512", 1024)]
BLANKS = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
SENTENCES = (
    "a red cube",
    "USER: \nGive a caption for this image. ASSISTANT:",
    "  two   spaces\tand\t\ttabs\n\nand lines  ",
    "Don't you think it's 1234 cafés — naïve 日本語 😀?",
    "def f(x):\n        return x" + " " * 40 + ".",
    "[PAD] and <|soi|> inside <|endoftext|>",
    "",
)


def official_tensors(layers: int, width: int, inner: int, head: int, clip: int = 0) -> dict[str, list[int]]:
    """Name -> shape, written out from the released modules and not from our table."""
    shapes = {
        "showo.model.embed_tokens.weight": [VOCABULARY, width],
        "showo.model.final_layernorm.weight": [width],
        "showo.model.final_layernorm.bias": [width],
        "showo.lm_head.weight": [VOCABULARY, width],
        "showo.lm_head.bias": [VOCABULARY],
    }
    for layer in range(layers):
        at = f"showo.model.layers.{layer}."
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"):
            shapes |= {f"{at}{name}.weight": [width, width], f"{at}{name}.bias": [width]}
        for name in ("self_attn.q_layernorm", "self_attn.k_layernorm"):
            shapes |= {f"{at}{name}.weight": [head], f"{at}{name}.bias": [head]}
        shapes |= {f"{at}mlp.fc1.weight": [inner, width], f"{at}mlp.fc1.bias": [inner]}
        shapes |= {f"{at}mlp.fc2.weight": [width, inner], f"{at}mlp.fc2.bias": [width]}
        shapes |= {f"{at}input_layernorm.weight": [width], f"{at}input_layernorm.bias": [width]}
    if clip:
        shapes |= {"mm_projector.0.weight": [width, clip], "mm_projector.0.bias": [width]}
        shapes |= {"mm_projector.2.weight": [width, width], "mm_projector.2.bias": [width]}
    return shapes


def official_config(image_tokens: int, clip: bool = False) -> dict[str, Any]:
    return {
        "_class_name": "Showo",
        "_diffusers_version": "0.30.1",
        "_name_or_path": "showlab/show-o",
        "codebook_size": CODES,
        "llm_model_path": "microsoft/phi-1_5",
        "llm_vocab_size": TEXT,
        "load_from_showo": False,
        "mask_token_id": VOCABULARY - 1,
        "num_vq_tokens": image_tokens,
        "vocab_size": VOCABULARY,
        "w_clip_vit": clip,
    }


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def random_tensors(clip: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = official_tensors(2, 64, 96, 16, 24 if clip else 0)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def shards_of(state: dict[str, Tensor], count: int = 3) -> list[dict[str, Tensor]]:
    names = list(state)
    return [{name: state[name] for name in names[i::count]} for i in range(count)]


def write_weights(folder: Path, state: dict[str, Tensor], form: str) -> None:
    """The file layouts that diffusers, under the official code's names, and the hub's tools write."""
    folder.mkdir(parents=True, exist_ok=True)
    save: Callable[[dict[str, Tensor], Path], None] = torch.save if "bin" in form else save_file
    if "shards" not in form:
        save(state, folder / {"bin": "pytorch_model.bin", "st": "pytorch_model.safetensors"}[form])
        return
    suffix = "bin" if "bin" in form else "safetensors"
    places = {}
    for i, part in enumerate(shards_of(state), start=1):
        file = f"pytorch_model-{i:05}-of-00003.{suffix}"
        save(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    write_json(folder / f"diffusion_pytorch_model.{suffix}.index.json", index)


def phi_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and added_tokens.json with Phi-1.5's numbers of ids, over random merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    rank = np.random.default_rng(0).permutation(len(letters) ** 2)[:50000]
    common = [("a", "n"), ("Ġ", "a"), ("Ġ", "c"), ("o", "n"), ("i", "n"), ("Ġ", "t")]
    drawn = [(letters[i // 256], letters[i % 256]) for i in rank.tolist()]
    pairs = [*common, *(pair for pair in drawn if pair not in common)][:50000]
    tokens = [*letters, *("".join(pair) for pair in pairs), "<|endoftext|>"]
    assert len(set(tokens)) == 50257
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs))
    write_json(folder / "added_tokens.json", {blank: 50257 + i for i, blank in enumerate(BLANKS)})
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CodeGenTokenizer",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        },
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`phi` and `vq` folders that tests link to or copy."""
    root = tmp_path_factory.mktemp("official")
    phi_tokenizer(root / "phi")
    write_json(root / "phi" / "config.json", PHI)
    torch.manual_seed(0)
    stack = StackConfig(ch=32, ch_mult=(1,) * 5, num_res_blocks=(1,) * 5)
    state = dict(MagvitV2(MagvitV2Config(encoder=stack, decoder=stack)).state_dict())
    bits = torch.arange(CODES)[:, None] >> torch.arange(12, -1, -1) & 1
    state["quantize.embedding"] = bits.float() * 2 - 1
    state["quantize.power_vals"] = 2 ** torch.arange(12, -1, -1)
    write_weights(root / "vq", state, "bin")
    config = {"_class_name": "MAGVITv2", "encoder": STACK, "decoder": STACK, "codebook_dim": 13}
    write_json(root / "vq" / "config.json", config)
    return root


class Release:
    """One release in a folder of its own, with private copies of what a test may spoil."""

    def __init__(
        self, root: Path, parts: Path, image_tokens: int = 256, form: str = "bin", clip: bool = False
    ):
        self.weights, self.phi, self.vq, self.to = (
            root / name for name in ("weights", "phi", "vq", "checkpoint")
        )
        shutil.copytree(parts / "phi", self.phi)
        shutil.copytree(parts / "vq", self.vq)
        write_json(self.weights / "config.json", official_config(image_tokens, clip))
        write_weights(self.weights, random_tensors(clip), form)

    def read(self, **options: Any) -> Path:
        import_showo(self.weights, self.vq, self.phi, self.to, **options)
        return self.to

    def refusal(self, **options: Any) -> str:
        """The message of the refused import, which must be one line and leave nothing behind."""
        before = sorted(self.to.parent.iterdir())
        with pytest.raises(CheckpointError) as caught:
            self.read(**options)
        assert "\n" not in str(caught.value)
        assert sorted(self.to.parent.iterdir()) == before
        return str(caught.value)


@pytest.fixture
def release(tmp_path: Path, parts: Path) -> Release:
    return Release(tmp_path, parts)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("clip", [0, 1024])
def test_the_table_of_tensors_is_the_releases_and_our_modules(clip: int) -> None:
    config = ShowoConfig(w_clip_vit=clip > 0)
    table = layout.tensor_shapes(config)
    assert {name: list(shape) for name, shape in table.items()} == official_tensors(24, 2048, 8192, 64, clip)
    with torch.device("meta"):
        ours = Showo(config).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == table
    assert config.vocab_size == VOCABULARY


def test_the_new_tokens_lie_where_the_vocabulary_has_them() -> None:
    vocabulary = ShowoConfig().vocabulary
    ids = {token: TEXT + i for i, token in enumerate(layout.NEW_TOKENS)}
    assert (ids["[PAD]"], ids["<|soi|>"], ids["<|eoi|>"]) == (vocabulary.pad, vocabulary.soi, vocabulary.eoi)
    assert (ids["<|t2i|>"], ids["<|mmu|>"]) == (vocabulary.t2i, vocabulary.mmu)
    assert ids["<|lvg|>"] + 1 == vocabulary.code_offset == 50305


@pytest.mark.parametrize(("name", "image_tokens"), SERVED)
def test_every_served_release_becomes_a_checkpoint(
    name: str, image_tokens: int, tmp_path: Path, parts: Path
) -> None:
    folder = Release(tmp_path, parts, image_tokens).read()
    config = load_config(folder)
    assert (config.num_image_tokens, config.vocab_size, config.text_vocab_size) == (
        image_tokens,
        VOCABULARY,
        TEXT,
    )
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (50256, 50256, 50295)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 4)
    assert (config.max_text_len, config.vocabulary.mask) == (128, VOCABULARY - 1)
    held = load_model(folder).state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in random_tensors().items())
    image = load_image_tokenizer(folder / "image_tokenizer")
    codes = torch.zeros(1, image_tokens, dtype=torch.int64)
    side = 16 * round(image_tokens**0.5)
    assert image.decode(codes).shape == (1, 3, side, side)


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
    assert "mm_projector.0.weight has shape [64, 32], expected [64, 24]" in found.refusal(clip=whole_clip[0])
    write_json(found.weights / "config.json", official_config(256))
    assert "unknown mm_projector.0.bias" in found.refusal()


def test_clip_with_a_release_that_has_none_is_refused(release: Release, tmp_path: Path) -> None:
    assert "leave out --clip" in release.refusal(clip=tmp_path)


def test_all_file_layouts_give_the_same_checkpoint(tmp_path: Path, parts: Path) -> None:
    forms = ("bin", "st", "shards-bin", "shards-st")
    read = [files_of(Release(tmp_path / form, parts, form=form).read()) for form in forms]
    assert read[0] == read[1] == read[2] == read[3]


def test_weights_keep_their_type_unless_another_is_asked_for(tmp_path: Path, parts: Path) -> None:
    found = Release(tmp_path, parts)
    write_weights(found.weights, random_tensors(dtype=torch.bfloat16), "bin")
    stored = load_file(found.read() / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    wide = Release(tmp_path / "wide", parts)
    stored = load_file(wide.read(dtype=torch.bfloat16) / "model.safetensors")
    assert all(torch.equal(stored[name], value.bfloat16()) for name, value in random_tensors().items())


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
        "showo.model.final_layernorm.bias has shape [65], expected [64]",
        "showo.model.final_layernorm.weight is torch.int32, not of float64, float32, float16 or bfloat16",
    ):
        assert words in message


def edited(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def with_tokens(found: Release, **ids: int) -> None:
    """Adds tokens to the tokenizer in the order of their ids."""
    edited(found.phi / "added_tokens.json", **ids)


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


def test_weights_are_written_for_all_who_may_read_the_rest(release: Release, tmp_path: Path) -> None:
    folder = release.read()
    export_showo(folder, tmp_path / "out")
    for root in (folder, tmp_path / "out"):
        modes = {path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()}
        assert len(modes) == 1


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


def test_phi_sizes_come_from_its_config_in_either_spelling_or_from_its_name(release: Release) -> None:
    old = {**PHI, "rope_scaling": None}
    new = PhiConfig(**{name: PHI[name] for name in ("hidden_size", "num_hidden_layers")}).to_dict()
    assert layout.parse_phi(old, "").num_attention_heads == 4
    assert layout.parse_phi(new, "") == layout.PhiSizes(hidden_size=64, num_hidden_layers=2)
    assert layout.parse_phi(PhiConfig().to_dict(), "") == layout.PhiSizes()
    (release.phi / "config.json").unlink()
    assert "expected [58498, 2048]" in release.refusal()
    edited(release.weights / "config.json", llm_model_path="/models/my-phi")
    assert "the sizes of '/models/my-phi' are not known" in release.refusal()


def test_encoding_equals_the_official_tokenizers(release: Release, tmp_path: Path) -> None:
    official = CodeGenTokenizer.from_pretrained(release.phi)
    official.save_pretrained(tmp_path / "whole")
    official.add_special_tokens({"pad_token": "[PAD]"})
    official.add_tokens(list(layout.NEW_TOKENS[1:]))
    assert official.convert_tokens_to_ids(list(layout.NEW_TOKENS)) == list(range(50295, 50305))
    files = TextTokenizer.load(release.read() / "tokenizer.json")
    shutil.rmtree(release.phi)
    shutil.copytree(tmp_path / "whole", release.phi)
    write_json(release.phi / "config.json", PHI)
    shutil.rmtree(release.to)
    whole = TextTokenizer.load(release.read() / "tokenizer.json")
    for text in SENTENCES:
        assert files.encode(text) == whole.encode(text) == official(text)["input_ids"]
    assert files.decode([50301, *files.encode("a red cube"), 50256, 50295]) == "a red cube"


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
    ours = layout.to_ours(parsed, layout.PhiSizes(), 50256, layout.code_wording())
    named = "USER: \nQuestion:{question} Choice:{choices} ASSISTANT:"
    assert ours.to_dict() == ShowoConfig(vqa_choices_prompt=named).to_dict()
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


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    to = tmp_path / "to"

    def interrupted() -> None:
        with whole_folder(to) as folder:
            (folder / "half").write_text("half")
            assert not to.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".to.unfinished").mkdir()
    (tmp_path / ".to.unfinished" / "left by a killed run").touch()
    with whole_folder(to) as folder:
        (folder / "all").write_text("all")
    assert files_of(tmp_path) == {"to/all": b"all"}
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"), whole_folder(tmp_path / "file" / "to"):
        pass


def test_the_golden_model_comes_through_import_with_its_logits(golden: Path, tmp_path: Path) -> None:
    sizes = json.loads((golden / "config.json").read_text())
    weights, phi, vq = tmp_path / "weights", tmp_path / "phi", tmp_path / "vq"
    write_weights(weights, load_file(golden / "weights.safetensors"), "bin")
    config = {**official_config(sizes["num_vq_tokens"]), "codebook_size": sizes["codebook_size"]}
    config |= {name: sizes[name] for name in ("vocab_size", "llm_vocab_size", "mask_token_id")}
    write_json(weights / "config.json", config)
    write_json(phi / "config.json", {**{name: sizes.get(name, PHI[name]) for name in PHI}, "vocab_size": 200})
    shutil.copyfile(golden / "tokenizer.json", phi / "tokenizer.json")
    write_json(vq / "config.json", {"_class_name": "MAGVITv2", **sizes["magvit"]})
    shutil.copyfile(golden / "magvit.safetensors", vq / "pytorch_model.safetensors")
    import_showo(weights, vq, phi, tmp_path / "checkpoint")
    model = load_model(tmp_path / "checkpoint")
    for case in ("case1_mmu", "case2_t2i"):
        stored = np.load(golden / f"{case}.npz")
        with torch.no_grad():
            hidden = model(torch.from_numpy(stored["ids"]), torch.from_numpy(stored["mask"]))
            logits = model.head(hidden)
        difference = (logits - torch.from_numpy(stored["logits"])).abs().max().item()
        print(f"{case}: largest logit difference {difference:.1e}")
        assert difference < 1e-4
    images = np.load(golden / "case7_magvit.npz")
    codes = load_image_tokenizer(tmp_path / "checkpoint" / "image_tokenizer").encode(
        torch.from_numpy(images["image"])
    )
    assert torch.equal(codes, torch.from_numpy(images["codes"]))


def write_full_size(weights: Path) -> int:
    """The 1.3B shape in bfloat16, 2.9 GB; the number of parameters."""
    generator = torch.Generator().manual_seed(0)
    shapes = official_tensors(24, 2048, 8192, 64)
    state = {
        name: torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.02, 0.02, generator=generator)
        for name, shape in shapes.items()
    }
    write_weights(weights, state, "bin")
    return sum(tensor.numel() for tensor in state.values())


def timed_import(*arguments: Path) -> tuple[float, float, float]:
    """Seconds of an import in a process of its own; its peak memory in GiB: all, and without mapped files."""
    code = (
        "import sys, time; from pathlib import Path; from engine.official.showo import import_showo;"
        "start = time.time(); import_showo(*map(Path, sys.argv[1:]));"
        "print(time.time() - start);"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    private = 0
    while child.poll() is None:
        status = Path(f"/proc/{child.pid}/status").read_text()
        private = max([private, *(int(line.split()[1]) for line in status.split("\n") if "RssAnon" in line)])
        time.sleep(0.02)
    assert child.stdout is not None
    seconds, peak = child.stdout.read().split()
    assert child.returncode == 0
    return float(seconds), int(peak) / 2**20, private / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_full_size_is_imported_without_a_copy_in_memory(tmp_path: Path, parts: Path) -> None:
    weights, to = tmp_path / "weights", tmp_path / "checkpoint"
    parameters = write_full_size(weights)
    write_json(weights / "config.json", official_config(256))
    shutil.copytree(parts / "phi", tmp_path / "phi")
    (tmp_path / "phi" / "config.json").unlink()
    seconds, peak, private = timed_import(weights, parts / "vq", tmp_path / "phi", to)
    print(
        f"{parameters / 1e9:.2f}B parameters: {seconds:.1f} s, peak {peak:.1f} GiB with the mapped file,"
        f" {private:.1f} GiB without"
    )
    assert parameters == sum(tensor.numel() for tensor in load_file(to / "model.safetensors").values())
    assert private < 1.5
    with torch.device("meta"):
        model = Showo(load_config(to))
    model.load_state_dict(load_file(to / "model.safetensors"), assign=True)
    with torch.no_grad():
        hidden = model(torch.arange(8)[None] + 50290, torch.ones(1, 1, 8, 8, dtype=torch.bool))
        logits = model.head(hidden)
    assert logits.shape == (1, 8, VOCABULARY)
    assert bool(logits.isfinite().all())
    export_showo(to, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["llm_model_path"] == "microsoft/phi-1_5"
    shutil.rmtree(weights)
    out = tmp_path / "out"
    import_showo(out, out / "magvitv2", out / "phi", tmp_path / "again")
    assert fingerprint(tmp_path / "again") == fingerprint(to)


def test_the_wording_of_an_export_is_checked(release: Release, tmp_path: Path) -> None:
    wording = layout.Wording(max_text_len=64, caption_prompt="c", vqa_prompt="{question}")
    (release.weights / "hermes.json").write_bytes(msgspec.json.encode(wording))
    assert load_config(release.read()).max_text_len == 64
    shutil.rmtree(release.to)
    (release.weights / "hermes.json").write_text("{}")
    assert "hermes.json: Object missing required field" in release.refusal()
