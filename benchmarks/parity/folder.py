"""A folder of arrays recorded from the reference implementation, of any sizes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.checkpoints.weights import save_checkpoint
from engine.errors import UNREADABLE, ConfigError
from engine.files.tensors import check_tensors, tensor_layout
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, save_image_tokenizer
from engine.tokenizers.magvit_v2 import MagvitV2, MagvitV2Config, magvit_v2_from
from engine.tokenizers.magvit_v2_blocks import StackConfig
from engine.tokenizers.text import TextTokenizer

EXACT = 0.0
"""The tolerance of ids and masks."""
Comparisons = Iterator[tuple[str, object, object, float]]
"""What a case yields: what is compared, our values, the stored ones, the tolerance."""
SAME = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rope_theta"),
    *("partial_rotary_factor", "layer_norm_eps", "max_position_embeddings", "codebook_size"),
    "bos_token_id",
)
"""Sizes that our configuration calls the same."""
LONGEST = 64
"""Positions that a served sequence may have beyond its prompt."""


class Golden:
    """Sizes, weights, texts and arrays of one folder, the tensors on one device.

    Raises (constructor):
        ConfigError: there is no config.json, or it lacks a size.
    """

    def __init__(self, root: Path, device: torch.device | str = "cpu") -> None:
        self.root, self.device = root, device
        path = root / "config.json"
        if not path.is_file():
            raise ConfigError(f"{root}: no config.json here; --golden wants a folder of recorded arrays")
        try:
            self.sizes: dict[str, Any] = msgspec.json.decode(path.read_bytes())
            self.texts: dict[str, Any] = self._json("cases.json")
            self.config = self._config()
        except (*UNREADABLE, KeyError) as error:
            raise ConfigError(f"{path}: {error!s}: not the sizes of a recorded model") from error

    def _json(self, name: str) -> dict[str, Any]:
        path = self.root / name
        return msgspec.json.decode(path.read_bytes()) if path.is_file() else {}

    def _config(self) -> ShowoConfig:
        sizes = self.sizes
        if sizes.get("num_key_value_heads", sizes["num_attention_heads"]) != sizes["num_attention_heads"]:
            raise ConfigError("grouped keys and values are not Show-o's")
        return ShowoConfig(
            **{name: sizes[name] for name in SAME},
            text_vocab_size=sizes["llm_vocab_size"],
            num_image_tokens=sizes["num_vq_tokens"],
            max_text_len=self.texts.get("case2_max_text_len", 128),
            caption_prompt=self.texts.get("case1_text", ""),
            vqa_prompt="{question}",
        )

    def case(self, name: str) -> dict[str, Tensor] | None:
        """The arrays of a case, None where the folder does not hold it."""
        path = self.root / f"{name}.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]).to(self.device) for key in arrays.files}

    def model(self, name: str) -> Showo:
        """The model whose weights lie in `<name>.safetensors`.

        Raises:
            CheckpointError: names every tensor that does not fit.
        """
        path = self.root / f"{name}.safetensors"
        model = Showo(self.config)
        check_tensors(tensor_layout(path), model, path)
        model.load_state_dict(load_file(path))
        return model.to(self.device).eval()

    def tokenizer(self) -> TextTokenizer:
        """The folder's text tokenizer."""
        return TextTokenizer.load(self.root / "tokenizer.json")

    def magvit(self) -> MagvitV2:
        """The folder's image tokenizer."""
        path, sizes = self.root / "magvit.safetensors", self.sizes["magvit"]
        keys = ("ch", "ch_mult", "num_res_blocks")
        encoder, decoder = (
            msgspec.convert({key: sizes[part][key] for key in keys}, StackConfig)
            for part in ("encoder", "decoder")
        )
        config = MagvitV2Config(
            image_size=sizes["encoder"]["resolution"],
            bits=sizes["codebook_dim"],
            encoder=encoder,
            decoder=decoder,
        )
        return magvit_v2_from(config, load_file(path), path).to(self.device)

    def checkpoint(self, model: Showo, longest: int, to: Path) -> Path:
        """A folder that the engine serves: the model, the text tokenizer, and any image tokenizer."""
        model.config.max_position_embeddings = longest + LONGEST
        companions = to / "companions"
        companions.mkdir(parents=True)
        shutil.copyfile(self.root / "tokenizer.json", companions / "tokenizer.json")
        side = round(self.config.num_image_tokens**0.5)
        bits = (self.config.codebook_size - 1).bit_length()
        patches = PatchLfqConfig(image_size=8 * side, patch=8, bits=bits, width=8)
        save_image_tokenizer(PatchLfq(patches), companions / "image_tokenizer")
        save_checkpoint(model, to / "served", companions)
        return to / "served"
