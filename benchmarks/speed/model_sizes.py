"""Random checkpoints of named sizes: what inference costs does not depend on what a model has learned."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.checkpoints.weights import save_checkpoint
from engine.files.layout import WEIGHTS
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import Record
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, save_image_tokenizer
from engine.tokenizers.text import word_tokenizer

CAPTION_PROMPT = "USER: \nGive a caption for this image. ASSISTANT:"
CHOICES_PROMPT = "USER: \nQuestion:{question} Choice:{choices} ASSISTANT:"
PATCH = 8
ENDLESS = -100.0
"""Bias of the end token: a caption ends where its length says, on every side of a comparison."""


class ModelSize(Record):
    """The sizes that a cost depends on."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    text_ids: int
    """Ids of the text tokenizer, its end token included."""
    code_bits: int
    side: int
    """Image tokens along a side."""
    text_room: int
    """`max_text_len`: text tokens that an image's prompt is padded to."""
    positions: int


MODEL_SIZES = {
    "tiny": ModelSize(64, 2, 2, 128, 128, 6, 6, 12, 160),
    "small": ModelSize(256, 6, 8, 1024, 640, 8, 8, 77, 256),
    "showo-1.3b": ModelSize(2048, 24, 32, 8192, 50295, 13, 16, 128, 2048),
}
"""showo-1.3b has the sizes of the released Show-o at 256 pixels; small is about 5.2M parameters."""


def config_of(name: str, layers: int = 0) -> ShowoConfig:
    """The configuration of a shape, with as many layers as it has, or so many."""
    shape = MODEL_SIZES[name]
    return ShowoConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=layers or shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.positions,
        text_vocab_size=shape.text_ids,
        codebook_size=2**shape.code_bits,
        num_image_tokens=shape.side**2,
        max_text_len=shape.text_room,
        caption_prompt=CAPTION_PROMPT,
        vqa_choices_prompt=CHOICES_PROMPT,
        bos_token_id=shape.text_ids - 1,
    )


def filler(index: int) -> str:
    """Word number `index` of a random vocabulary."""
    return f"w{index:05d}"


def random_model(
    config: ShowoConfig,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Showo:
    """A random model, made where it is to work."""
    with torch.device("meta"):
        model = Showo(config)
    model = model.to(dtype).to_empty(device=device)
    model.initialise(seed)
    return model.eval()


def companions(folder: Path, name: str) -> Path:
    """The tokenizers of a shape, in `folder`."""
    shape = MODEL_SIZES[name]
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer(shape.text_ids, folder / "tokenizer.json")
    pixels = PatchLfqConfig(image_size=PATCH * shape.side, patch=PATCH, bits=shape.code_bits, width=8)
    torch.manual_seed(0)
    save_image_tokenizer(PatchLfq(pixels), folder / "image_tokenizer")
    return folder


def make(
    folder: Path,
    name: str,
    dtype: torch.dtype = torch.float32,
    layers: int = 0,
    endless: bool = True,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Path:
    """A random checkpoint of a shape in `folder`, which is kept as it is where it has one already.

    `endless` keeps the model from ending a text by itself. Its numbers are those of the seed on the device.
    """
    checkpoint = folder / "checkpoint"
    if (checkpoint / WEIGHTS).is_file():
        return checkpoint
    beside = companions(folder / "companions", name)
    model = random_model(config_of(name, layers), dtype, device, seed).cpu()
    if endless:
        with torch.no_grad():
            model.head.bias[model.config.vocabulary.eos] = ENDLESS
    save_checkpoint(model, checkpoint, beside)
    return checkpoint


def _tokenizer(size: int, path: Path) -> None:
    """A word tokenizer of exactly so many ids: the words of the prompts, and fillers."""
    words = CAPTION_PROMPT + CHOICES_PROMPT.format(question="w ?", choices=["w", "w"])
    room = size - word_tokenizer([words]).size
    text = word_tokenizer([words, *map(filler, range(room))])
    assert text.size == size
    text.save(path)
