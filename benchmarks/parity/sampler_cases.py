"""Mask-predict sampling step by step under the recorded draws, and the image tokenizer.

Legend: B images, N image tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.parity.folder import EXACT, Comparisons, Golden
from benchmarks.parity.model_cases import LOGITS
from engine.samplers.mask_predict_rule import guide, left_masked, mask_again, temperatures
from engine.samplers.masked_images import MaskedImages, text_prefixes
from engine.tokenizers.magvit_v2_blocks import code_bits

PIXELS = 1e-4


@torch.no_grad()
def sampling(golden: Golden, arrays: dict[str, Tensor], case: str) -> Comparisons:
    """case4: logits of every step behind stored prefixes, guidance, schedule, what is hidden again."""
    words, settings = golden.config.vocabulary, golden.texts[case]
    guidance, room = float(settings["guidance_scale"]), settings["max_text_len"]
    steps, rows, tokens = arrays["draws"].shape
    noise = temperatures(1.0, steps)
    yield "temperatures", torch.tensor(noise, dtype=torch.double), arrays["temperature"], 1e-6
    if guidance:
        both = guide(arrays["cond_logits"], arrays["uncond_logits"], guidance)
        yield "guidance", both, arrays["logits"], 1e-4
    model = golden.model("weights")
    model.config.max_text_len = room
    prompts = [arrays["prompt_ids"], *([arrays["uncond_prompt_ids"]] if guidance else [])]
    texts = [[i for i in row[: room + 1].tolist() if i != words.pad] for prompt in prompts for row in prompt]
    encoded = [words.t2i_text(golden.tokenizer().encode(one), room) for one in settings["prompts"]]
    yield "prompts", _padded(encoded, words.pad), _padded(texts[:rows], words.pad), EXACT
    images = MaskedImages(model, text_prefixes(model, [text[2:-1] for text in texts]))
    largest, hidden, counts = 0.0, [], []
    codes = torch.full((rows, tokens), -1, device=golden.device)
    for step in range(steps):
        unknown = codes < 0
        logits = images.logits(codes, guidance)
        wanted = arrays["logits"][step]
        largest = max(largest, (logits - wanted[unknown]).abs().max().item())
        draws = arrays["draws"][step]
        logp = wanted.log_softmax(-1).gather(-1, draws[..., None])[..., 0]
        left = left_masked(unknown.sum(-1), tokens, step, steps)
        again = mask_again(logp, unknown, arrays["gumbel"][step], noise[step], left)
        sampled = torch.where(unknown, draws, codes)
        codes = sampled.masked_fill(again, -1)
        counts.append(left)
        hidden.append(again)
    yield "logits", torch.tensor(largest), torch.tensor(0.0), LOGITS
    yield "number hidden again", torch.stack(counts), arrays["mask_len"][..., 0].long(), EXACT
    yield "hidden again", torch.stack(hidden), arrays["masking"], EXACT
    yield "codes", sampled, arrays["final_ids"], EXACT


def _padded(rows: list[list[int]], pad: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


@torch.no_grad()
def image_tokenizer(golden: Golden, arrays: dict[str, Tensor]) -> Comparisons:
    """case7: MAGVIT-v2 encode and decode, square and not, and of random codes."""
    magvit = golden.magvit()
    for name in ("", "rect_"):
        if f"{name}image" not in arrays:
            continue
        pixels, codes = arrays[f"{name}image"], arrays[f"{name}codes"]
        shape = arrays[f"{name}z"].shape[-2:]
        yield f"{name}z", magvit.latent(pixels), arrays[f"{name}z"], 1e-4
        yield f"{name}codes", magvit.encode(pixels), codes, EXACT
        bits = code_bits(codes, magvit.config.bits).unflatten(-1, shape)
        yield f"{name}pixels", magvit.reconstruct(bits), arrays[f"{name}decoded"], PIXELS
    if "random_codes" in arrays:
        found = magvit.decode(arrays["random_codes"])
        yield "pixels of random codes", found, arrays["random_decoded"], PIXELS
