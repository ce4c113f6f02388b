"""Sequences, attention rules and logits: captioning, text to image, and decoding one token at a time.

Legend: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.parity.folder import EXACT, Comparisons, Golden
from engine.models.masks import mmu_mask, t2i_mask
from engine.models.showo import Showo

LOGITS = 1e-4
PROBABILITIES = 1e-5


@torch.no_grad()
def _logits(model: Showo, ids: Tensor, mask: Tensor, positions: Tensor | None = None) -> Tensor:
    return model.head(model(ids, mask, positions))


def captioning(golden: Golden, arrays: dict[str, Tensor]) -> Comparisons:
    """case1: the understanding layout, its mask, its logits."""
    words, text = golden.config.vocabulary, golden.tokenizer().encode(golden.texts["case1_text"])
    ids = torch.tensor([words.mmu_prompt(codes, text) for codes in arrays["image_codes"].tolist()])
    yield "ids", ids, arrays["ids"], EXACT
    mask = mmu_mask(arrays["ids"], words.eoi)
    yield "mask", mask, arrays["mask"], EXACT
    yield "logits", _logits(golden.model("weights"), arrays["ids"], mask), arrays["logits"], LOGITS


def text_to_image(golden: Golden, arrays: dict[str, Tensor]) -> Comparisons:
    """case2: the text-to-image layout with left padding, with and without its text, its mask, its logits."""
    words, room = golden.config.vocabulary, golden.texts["case2_max_text_len"]
    text = golden.tokenizer()
    hidden = torch.where(arrays["image_masked"], -1, arrays["image_codes"]).tolist()

    def layout(texts: list[list[int]]) -> Tensor:
        rows = [words.t2i_text(one, room) for one in texts]
        pads = [[words.pad] * words.t2i_pad(row, room) for row in rows]
        parts = zip(pads, rows, hidden, strict=True)
        return torch.tensor([[*left, *row, *words.image(codes)] for left, row, codes in parts])

    yield "ids", layout([text.encode(one) for one in golden.texts["case2_texts"]]), arrays["ids"], EXACT
    yield "ids, text dropped", layout([[]] * len(hidden)), arrays["ids_text_dropped"], EXACT
    ids = arrays["ids"]
    mask = t2i_mask(ids, words.pad, words.soi, words.eoi)
    seen = ids != words.pad
    # A padding position sees itself here and every earlier position there; nobody sees either.
    yield "mask", mask[:, 0][seen], arrays["mask"][:, 0][seen], EXACT
    model = golden.model("weights")
    found = _logits(model, ids, mask)
    yield "logits", found[seen], arrays["logits"][seen], LOGITS
    codes = slice(words.code_offset, words.mask)
    image = slice(-golden.config.num_image_tokens - 1, -1)
    yield "logits of codes", found[:, image, codes], arrays["logits_image_codes"], LOGITS
    alone = []
    for row in ids:
        start = int((row != words.pad).int().argmax())
        part, places = row[None, start:], torch.arange(start, len(row), device=row.device)
        alone.append(_logits(model, part, t2i_mask(part, words.pad, words.soi, words.eoi), places)[0, image])
    yield "logits, unpadded", torch.stack(alone), arrays["logits_image"], LOGITS


def decoding(golden: Golden, arrays: dict[str, Tensor]) -> Comparisons:
    """case5: greedy captions and answers step by step, and the distribution of a sampled run."""
    words, model = golden.config.vocabulary, golden.model("weights")

    def run(prompt: Tensor, follow: Tensor | None, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        ids, logits = prompt, []
        for step in range(steps):
            last = _logits(model, ids, mmu_mask(ids, words.eoi))[0, -1]
            token = last.argmax() if follow is None else follow[step]
            ids = torch.cat((ids, token.view(1, 1)), 1)
            logits.append(last)
        tokens = ids[0, prompt.shape[1] :]
        return tokens, torch.stack(logits), mmu_mask(ids[:, :-1], words.eoi)[0, 0]

    for which in sorted(name.removeprefix("tokens_") for name in arrays if name.startswith("tokens_")):
        wanted = arrays[f"tokens_{which}"]
        tokens, logits, mask = run(arrays[f"prompt_ids_{which}"], None, len(wanted))
        yield f"greedy tokens {which}", tokens, wanted, EXACT
        yield f"logits {which}", logits, arrays[f"step_logits_{which}"], LOGITS
        yield f"mask {which}", mask, arrays[f"final_mask_{which}"], EXACT
    if "sampled_tokens" not in arrays:
        return
    drawn = arrays["sampled_tokens"]
    _, logits, _ = run(arrays["sampled_prompt_ids"], drawn, len(drawn))
    scaled = logits / arrays["sampled_temperature"].item()
    least = scaled.topk(int(arrays["sampled_top_k"]), -1).values[:, -1:]
    probs = scaled.masked_fill(scaled < least, float("-inf")).softmax(-1)
    yield "sampled probabilities", probs, arrays["sampled_probs"], PROBABILITIES
