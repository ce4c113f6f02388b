"""Random Show-o checkpoints of the smallest sizes, for tests that need an engine and not its answers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from engine.checkpoints.weights import save_checkpoint
from engine.files.layout import CLIP_FOLDER
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, save_image_tokenizer
from engine.tokenizers.text import word_tokenizer

WORDS = "caption : what color is the how many red green blue circle square two three a and ?"


@torch.no_grad()
def randomised(model: Showo, seed: int) -> Showo:
    """Random values everywhere, norms and biases too, with a head sharp enough to prefer some tokens."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "layernorm" in name:
            parameter.copy_(noise * 0.2 + (1.0 if name.endswith("weight") else 0.0))
        elif name.endswith("bias"):
            parameter.copy_(noise * 0.2)
        else:
            parameter.copy_(noise * (1.0 if "embed" in name else 2 * parameter.shape[1] ** -0.5))
    return model


def clip_model(seed: int, image_size: int = 40, patch_size: int = 8) -> CLIPVisionModel:
    """A small random CLIP vision tower, by default of 25 patches, with 24 features each."""
    torch.manual_seed(seed)
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=image_size,
            patch_size=patch_size,
            projection_dim=16,
            initializer_factor=4.0,
        )
    )


def tiny_checkpoint(folder: Path, clip: bool) -> Path:
    """One layer with one head: of 32 dimensions, or of 16, and 25 CLIP features, where `clip`."""
    text = word_tokenizer([WORDS])
    size = 16 if clip else 32
    seen = text.encode("how many red green blue circle ?")
    more = {"w_clip_vit": True, "clip_tokens": 25, "clip_size": 24, "system_ids": seen} if clip else {}
    config = ShowoConfig(
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=64,
        text_vocab_size=text.size,
        codebook_size=16,
        num_image_tokens=36,
        max_text_len=8,
        caption_prompt="caption:",
        vqa_prompt="{question}",
        bos_token_id=text.size - 1,
        **more,
    )
    companions = folder / "companions"
    torch.manual_seed(0)
    save_image_tokenizer(PatchLfq(PatchLfqConfig(bits=4, width=8)), companions / "image_tokenizer")
    text.save(companions / "tokenizer.json")
    if clip:
        clip_model(5).save_pretrained(companions / CLIP_FOLDER)
    save_checkpoint(randomised(Showo(config), 1), folder, companions)
    return folder
