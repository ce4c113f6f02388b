"""Captions: grown in the worker from one stem an image, or decoded by vLLM as requests of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.models.showo_config import ShowoConfig
from engine.records import CaptionSettings, ImageTokens, SampledCaption
from engine.samplers.batch_size import Limits
from engine.samplers.branches import Grown
from engine.samplers.token_rule import check_settings
from engine.serving.prompts import Prompts, fitting, requests, windows
from engine.serving.server import Server
from engine.tokenizers.text import TextTokenizer

if TYPE_CHECKING:
    from vllm import SamplingParams


def captions(
    server: Server,
    prompts: Prompts,
    text: TextTokenizer,
    config: ShowoConfig,
    limits: Limits | None,
    images: Sequence[ImageTokens],
    plan: Sequence[CaptionSettings],
    seeds: Sequence[Sequence[int]],
) -> list[list[SampledCaption]]:
    """A caption of every image for each entry of the plan, with the seeds of each.

    `limits` are those of the branched sampler; None is the paged one.

    Raises:
        EngineError: settings out of range, or too many tokens for the model.
    """
    server.ready()
    check_settings(plan)
    if not plan or not images:
        return [[] for _ in images]
    prompt = text.encode(config.caption_prompt)
    if limits is None:
        grown = _paged(server, prompts, prompt, images, plan, seeds)
    else:
        grown = _branched(server, prompts, prompt, config, limits, images, plan, seeds)
    eos = config.vocabulary.eos
    return [
        [_caption(one, seed, eos, text) for one, seed in zip(*rows, strict=True)]
        for rows in zip(grown, seeds, strict=True)
    ]


def _caption(grown: Grown, seed: int, eos: int, text: TextTokenizer) -> SampledCaption:
    kept = tuple(token for token in grown.ids if token != eos)
    return SampledCaption(text=text.decode(kept), token_ids=kept, logprobs=tuple(grown.logps), seed=seed)


def _branched(
    server: Server,
    prompts: Prompts,
    prompt: Sequence[int],
    config: ShowoConfig,
    limits: Limits,
    images: Sequence[ImageTokens],
    plan: Sequence[CaptionSettings],
    seeds: Sequence[Sequence[int]],
) -> list[list[Grown]]:
    n, longest = len(plan), max(one.max_tokens for one in plan)
    found: list[list[Grown]] = []
    for part in windows(prompts, len(images)):
        stems = [prompts.stem(image, prompt) for image in prompts.seen(images[part])]
        length = len(fitting(stems[0].ids, longest, config))
        batch = limits.stems(config, length, n, longest)
        found += server.rpc("captioning failed", "hermes_grow", stems, plan, seeds[part], batch)
        server.meter.prompts(n * length * len(stems), (n - 1) * length * len(stems))
    return found


def _paged(
    server: Server,
    prompts: Prompts,
    prompt: Sequence[int],
    images: Sequence[ImageTokens],
    plan: Sequence[CaptionSettings],
    seeds: Sequence[Sequence[int]],
) -> list[list[Grown]]:
    n, longest = len(plan), max(one.max_tokens for one in plan)
    params = [
        server.sampling(
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            max_tokens=settings.max_tokens,
            seed=seed,
            logprobs=0,
        )
        for row in seeds
        for seed, settings in zip(row, plan, strict=True)
    ]
    found = []
    for output in continued(server, prompts, images, [[prompt] * n] * len(images), longest, params):
        ids, steps = output.outputs[0].token_ids, output.outputs[0].logprobs
        found.append(Grown(list(ids), [step[token].logprob for token, step in zip(ids, steps, strict=True)]))
    return [found[start : start + n] for start in range(0, len(found), n)]


def continued(
    server: Server,
    prompts: Prompts,
    images: Sequence[ImageTokens],
    texts: Sequence[Sequence[Sequence[int]]],
    room: int,
    params: Sequence[SamplingParams],
) -> list[Any]:
    """vLLM's outputs to every text of every image, in order; `params` has one for each text."""
    outputs: list[Any] = []
    for part in windows(prompts, len(images)):
        asked = requests(prompts, prompts.seen(images[part]), texts[part], room)
        outputs += server.generate(asked, params[len(outputs) : len(outputs) + len(asked)])
    return outputs
