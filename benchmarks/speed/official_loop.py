"""The baseline that does the work of the official scripts, on the training module.

Source: HermesFlow's released `mmu_generate` and `t2i_generate`. Nothing is cached: each new token, and
each step of an image, runs the whole sequence through all layers and the whole vocabulary's head at every
position. Texts are continued one at a time. Images are generated with the text padded to its full length,
one at a time or, as the released curation script does with 16, several of one prompt in a batch.

Legend: B candidates, L positions, N image tokens, K image codes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.models.masks import mmu_mask, t2i_mask
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import CaptionSettings, ImageSettings
from engine.samplers.mask_predict import randoms
from engine.samplers.mask_predict_rule import guide, gumbel, left_masked, mask_again, temperatures
from engine.samplers.token_rule import SMALLEST, draw


def pick(logits_BV: Tensor, settings: CaptionSettings, generator: torch.Generator) -> Tensor:
    """One token a row, [B, 1]. Temperature 0 is the script's top-k of 1; `top_p` it does not have."""
    greedy = settings.temperature == 0
    logits_BV = logits_BV.float() / (1.0 if greedy else settings.temperature)
    if top_k := 1 if greedy else settings.top_k:
        least_B1 = logits_BV.topk(min(top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    return torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)


@torch.inference_mode()
def continue_text(
    model: Showo, prompt: Sequence[int], settings: CaptionSettings, generator: torch.Generator
) -> list[int]:
    """The tokens after an understanding prompt, without the end token."""
    words = model.config.vocabulary
    ids = torch.tensor([list(prompt)], device=model.device)
    for _ in range(settings.max_tokens):
        logits_LV = model.token_logits(model(ids, mmu_mask(ids, words.eoi)))[0]
        token = pick(logits_LV[-1:], settings, generator)
        if int(token) == words.eos:
            break
        ids = torch.cat((ids, token), 1)
    return ids[0, len(prompt) :].tolist()


class FreeDice:
    """An image's random choices in the official way: multinomial draws, one generator for all candidates."""

    def __init__(self, generator: torch.Generator, candidates: int, tokens: int) -> None:
        self._generator, self._shape = generator, (candidates, tokens)

    def codes(self, step: int, logits_BNK: Tensor) -> tuple[Tensor, Tensor]:
        """A code for every position, and its log-probability, both [B, N]."""
        probs = logits_BNK.softmax(-1)
        codes_BN = torch.multinomial(probs.flatten(0, 1), 1, generator=self._generator).view(self._shape)
        return codes_BN, probs.gather(-1, codes_BN[..., None])[..., 0].clamp(min=SMALLEST).log()

    def noise(self, step: int) -> Tensor:
        """Gumbel noise for the confidences, [B, N]."""
        dice = self._generator
        return gumbel(torch.rand(self._shape, generator=dice, device=dice.device))


class EngineDice:
    """The engine's numbers for given seeds: with them both sides generate the same image."""

    def __init__(
        self, seeds: Sequence[int], steps: int, tokens: int, device: torch.device | str = "cpu"
    ) -> None:
        self._uniform = torch.stack([randoms(seed, steps, tokens) for seed in seeds], 2).to(device)

    def codes(self, step: int, logits_BNK: Tensor) -> tuple[Tensor, Tensor]:
        uniform_BN = self._uniform[step, 0]
        codes, logp = draw(logits_BNK.flatten(0, 1), uniform_BN.flatten())
        return codes.view(uniform_BN.shape), logp.view(uniform_BN.shape)

    def noise(self, step: int) -> Tensor:
        return gumbel(self._uniform[step, 1])


class GeneratedImages(NamedTuple):
    """Images of one prompt."""

    codes: list[list[int]]
    """[B][N]."""
    hidden: list[list[int]]
    """How many positions each step found hidden, [steps][B]."""


def padded_rows(config: ShowoConfig, text: Sequence[int], candidates: int) -> Tensor:
    """Rows `pads [t2i][sot] text [eot][soi] masks [eoi]` of full length, [B, L]."""
    words, room = config.vocabulary, config.max_text_len
    prompt = words.t2i_text(text, room)
    pads = [words.pad] * words.t2i_pad(prompt, room)
    return torch.tensor([[*pads, *prompt, *words.image([-1] * config.num_image_tokens)]] * candidates)


@torch.inference_mode()
def generate(
    model: Showo, text: Sequence[int], candidates: int, settings: ImageSettings, dice: FreeDice | EngineDice
) -> GeneratedImages:
    """Images of one prompt, given as text ids without specials, in one batch."""
    config, words = model.config, model.config.vocabulary
    tokens, steps = config.num_image_tokens, settings.steps
    ids = padded_rows(config, text, candidates)
    if settings.guidance:
        ids = torch.cat((ids, padded_rows(config, (), candidates)))
    ids = ids.to(model.device)
    mask = t2i_mask(ids, words.pad, words.soi, words.eoi)
    codes_BN = torch.full((candidates, tokens), -1, device=model.device)
    sampled_BN, hidden = codes_BN, []
    for step, temperature in enumerate(temperatures(settings.temperature, steps)):
        unknown_BN = codes_BN < 0
        hidden.append(unknown_BN.sum(-1))
        drawn_BN, logp_BN = dice.codes(step, _guided(model, ids, mask, settings.guidance))
        sampled_BN = torch.where(unknown_BN, drawn_BN, codes_BN)
        left_B = left_masked(unknown_BN.sum(-1), tokens, step, steps, settings.schedule)
        again_BN = mask_again(logp_BN, unknown_BN, dice.noise(step), temperature, left_B)
        codes_BN = sampled_BN.masked_fill(again_BN, -1)
        ids_BN = torch.where(again_BN, words.mask, sampled_BN + words.code_offset)
        ids[:, -tokens - 1 : -1] = ids_BN.repeat(len(ids) // candidates, 1)
    return GeneratedImages(sampled_BN.tolist(), torch.stack(hidden).tolist())


def _guided(model: Showo, ids: Tensor, mask: Tensor, guidance: float) -> Tensor:
    """Code logits [B, N, K]; guidance comes before the cut to codes, as in the official code."""
    config = model.config
    logits = model.token_logits(model(ids, mask)).float()
    if guidance:
        conditional, unconditional = logits.chunk(2)
        logits = guide(conditional, unconditional, guidance)
    return logits[:, -config.num_image_tokens - 1 : -1, config.vocabulary.code_offset : -1]
