"""The same sequences through vLLM, against the stored values and against the training model.

Legend: N image tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.parity.folder import EXACT, Comparisons, Golden
from engine.models.masks import mmu_mask
from engine.models.showo import Showo
from engine.records import CaptionSettings, ImageTokens, Question
from engine.serving.engine import Engine

SERVED = 1e-4


def serving(golden: Golden, captions: dict[str, Tensor], decoded: dict[str, Tensor], to: Path) -> Comparisons:
    """Greedy captions and answers of case5, and the log-probs of given captions of case1's images."""
    model, text = golden.model("weights"), golden.tokenizer()
    longest = max(int(arrays.shape[1]) for name, arrays in decoded.items() if name.startswith("prompt_ids"))
    eos = golden.config.vocabulary.eos
    with Engine(golden.checkpoint(model, longest, to)) as engine:
        for which in ("0", "1"):
            asked, wanted = golden.texts[f"case5_text_{which}"], decoded[f"tokens_{which}"]
            image = _image(golden, decoded[f"prompt_ids_{which}"])
            if asked == golden.config.caption_prompt:
                settings = CaptionSettings(temperature=0.0, max_tokens=len(wanted))
                found = engine.caption([image], ["golden"], 0, [settings])[0][0]
                count = len(found.logprobs)
                ended = (wanted == eos).nonzero()
                tokens = wanted[: int(ended[0])] if len(ended) else wanted
                yield f"greedy tokens {which}", torch.tensor(found.token_ids), tokens, EXACT
                stored = decoded[f"step_logits_{which}"].log_softmax(-1).gather(-1, wanted[:, None])
                logps = torch.tensor(found.logprobs)
                yield f"their log-probs {which}", logps, stored[:count, 0], SERVED
            else:
                question = Question(question=asked, choices=(), answer="", kind="")
                answer = engine.answer([image], [[question]])[0][0].text
                kept = [token for token in wanted[: golden.config.answer_tokens].tolist() if token != eos]
                yield f"greedy answer {which}", torch.tensor(answer == text.decode(kept)), True, EXACT
        images = [ImageTokens(codes=tuple(row)) for row in captions["image_codes"].tolist()]
        given = [one for one in golden.texts.get("case2_texts", []) if one][: len(images)]
        scores = engine.score(images[: len(given)], given)
        for i, (image, said, found_scores) in enumerate(zip(images, given, scores, strict=False)):
            trained = _trained(model, image, text.encode(golden.config.caption_prompt), text.encode(said))
            yield f"caption {i} against the training model", torch.tensor(found_scores), trained, SERVED


def _image(golden: Golden, prompt: Tensor) -> ImageTokens:
    ids = prompt[0, 2 : 2 + golden.config.num_image_tokens] - golden.config.vocabulary.code_offset
    return ImageTokens(codes=tuple(ids.tolist()))


@torch.no_grad()
def _trained(model: Showo, image: ImageTokens, prompt: list[int], caption: list[int]) -> Tensor:
    """Log-probs of a caption's tokens and its end, from the training model's dense forward pass."""
    words = model.config.vocabulary
    start, tail = words.mmu_prompt(image.codes, prompt), [*caption, words.eos]
    ids = torch.tensor([[*start, *tail]])
    logp: Tensor = model.head(model(ids, mmu_mask(ids, words.eoi)))[0].log_softmax(-1)
    return logp[len(start) - 1 : -1].gather(-1, torch.tensor(tail)[:, None])[:, 0]
