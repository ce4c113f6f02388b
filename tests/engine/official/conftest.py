"""One random release of the official kind for each test, from parts made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from official_release import CODES, PHI, STACK, Release, phi_tokenizer, write_json, write_weights

from engine.tokenizers.magvit_v2 import MagvitV2, MagvitV2Config
from engine.tokenizers.magvit_v2_blocks import StackConfig


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


@pytest.fixture
def release(tmp_path: Path, parts: Path) -> Release:
    return Release(tmp_path, parts)
