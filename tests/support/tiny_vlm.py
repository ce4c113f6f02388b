"""A small random vision-language model (BLIP-2) that vLLM's server can serve, written as a folder."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    OPTConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

SPECIALS = ("<s>", "<pad>", "</s>", "<image>", "<unk>")
QUERIES, PIXELS = 4, 28
CHAT = "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"


def write_vlm(folder: Path) -> Path:
    """Letters as tokens, a chat template that gives the texts, weights wide enough that images differ."""
    letters = [*string.ascii_letters, *string.digits, *string.punctuation, " "]
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIALS))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=CHAT
    )
    images = BlipImageProcessorPil(size={"height": PIXELS, "width": PIXELS})
    Blip2Processor(image_processor=images, tokenizer=fast, num_query_tokens=QUERIES).save_pretrained(folder)
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = OPTConfig(
        hidden_size=64, word_embed_proj_dim=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=len(vocabulary), max_position_embeddings=512,
        bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config={**tower, "image_size": PIXELS, "patch_size": 14},
            qformer_config={**tower, "encoder_hidden_size": 32, "vocab_size": 10},
            text_config=text.to_dict(),
            num_query_tokens=QUERIES,
            image_token_index=vocabulary["<image>"],
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def greedy_text(folder: Path, image: np.ndarray, text: str, tokens: int) -> str:
    """What transformers' own model says about an image uint8 [H, W, 3] after a text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    processor = BlipImageProcessorPil(size={"height": PIXELS, "width": PIXELS})
    pixels = np.array(processor(Image.fromarray(image), return_tensors="np")["pixel_values"])
    said = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[SPECIALS.index("<image>")] * QUERIES + said])
    told = model.generate(
        pixel_values=torch.tensor(pixels),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
    )
    return tokenizer.decode(told[0, ids.shape[1] :], skip_special_tokens=True)
