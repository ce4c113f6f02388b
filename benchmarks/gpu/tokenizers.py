"""Image tokenizers and CLIP on the device, with random weights of the released sizes, against the CPU."""

from __future__ import annotations

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from benchmarks.gpu.place import Found, Measure, Place
from engine.devices import exact_convolutions
from engine.models.clip_tower import ClipTower
from engine.tokenizers.magvit_v2 import MagvitV2, MagvitV2Config
from engine.tokenizers.magvit_v2_blocks import StackConfig

SMALL = StackConfig(ch_mult=(1, 1), num_res_blocks=(1, 1), ch=32)


@exact_convolutions()
def magvit(place: Place) -> Found:
    """MAGVIT-v2 of 256 pixels, one image at a time as it always works."""
    torch.manual_seed(0)
    config = place.pick(MagvitV2Config(), MagvitV2Config(image_size=16, encoder=SMALL, decoder=SMALL))
    tokenizer, count = MagvitV2(config).eval(), place.pick(8, 2)
    images = torch.rand(count, 3, config.image_size, config.image_size) * 2 - 1
    codes = tokenizer.encode(images)
    pixels = tokenizer.decode(codes)
    tokenizer.to(place.device)
    images_here, codes_here = images.to(place.device), codes.to(place.device)
    found, decoded = tokenizer.encode(images_here), tokenizer.decode(codes_here)
    figures = {
        "share of codes equal to the CPU's": [float((found.cpu() == codes).double().mean())],
        "largest difference of decoded pixels from the CPU's": [float((decoded.cpu() - pixels).abs().max())],
    }
    sides = {
        "encoded": lambda _: tokenizer.encode(images_here),
        "decoded": lambda _: tokenizer.decode(codes_here),
    }
    for name, seconds in place.seconds(sides).items():
        figures[f"images {name} a second"] = [count / one for one in seconds]
    what = f"{count} images of {config.image_size} pixels, float32, random weights"
    return Found(what, figures)


def clip(place: Place) -> Found:
    """CLIP ViT-L/14 at 336 pixels, preprocessing included."""
    torch.manual_seed(0)
    sizes = place.pick((1024, 4096, 24, 16, 336), (32, 64, 2, 2, 28))
    width, inner, layers, heads, side = sizes
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=side,
        patch_size=14,
    )
    model = CLIPVisionModel(config)
    images = np.random.default_rng(0).integers(0, 256, (place.pick(8, 2), side, side, 3), dtype=np.uint8)
    wanted = ClipTower(model).features(images)
    tower = ClipTower(model, place.device)
    apart = np.abs(tower.features(images) - wanted).max() / np.abs(wanted).max()
    seconds = place.seconds({"": lambda _: tower.features(images)})[""]
    figures = {
        "largest difference from the CPU's features over the largest feature": [float(apart)],
        "images a second": [len(images) / one for one in seconds],
    }
    what = f"{len(images)} images of {side} pixels, float32, random weights"
    return Found(what, figures)


MEASURES: dict[str, Measure] = {"MAGVIT-v2": magvit, "CLIP": clip}
