"""Releases with the exact official names, vocabulary, image sizes and layouts, of a few random weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import HermesError
from engine.official.showo import import_showo

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
        with pytest.raises(HermesError) as caught:
            self.read(**options)
        assert "\n" not in str(caught.value)
        assert sorted(self.to.parent.iterdir()) == before
        return str(caught.value)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edited(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def with_tokens(found: Release, **ids: int) -> None:
    """Adds tokens to the tokenizer in the order of their ids."""
    edited(found.phi / "added_tokens.json", **ids)
