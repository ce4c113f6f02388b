"""Captions: what `Engine.caption` and `Engine.score` do.

Two samplers give them. The branched one, on a CPU, reads an image and the caption prompt once and samples all
candidates from there, in the worker (`samplers.continuations`). The paged one, on a GPU, makes a request to
vLLM of each candidate. The draws of a seed differ between the two, greedy captions do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from engine.models.showo_config import ShowoConfig
from engine.records import CaptionSettings, ImageTokens, SampledCaption
from engine.samplers.continuations import Limits, SampledSequence
from engine.samplers.seeds import sample_seed
from engine.samplers.token_rule import check_settings
from engine.serving.prompts import Prompts
from engine.serving.server import Server
from engine.tokenizers.text import TextTokenizer

Sampled = list[list[SampledSequence]]
"""Of every image, one for each entry of the plan."""


class TextSampler:
    """What captions and answers are sampled with."""

    def __init__(
        self,
        server: Server,
        prompts: Prompts,
        text: TextTokenizer,
        config: ShowoConfig,
        limits: Limits | None,
    ) -> None:
        """`limits` are those of the branched sampler; None is the paged one."""
        self._server, self._prompts, self._text, self._config = server, prompts, text, config
        self._limits = limits


class Captions(TextSampler):
    """Samples captions of images, and scores given ones."""

    @cached_property
    def _prompt(self) -> list[int]:
        return self._text.encode(self._config.caption_prompt)

    def sample(
        self, images: Sequence[ImageTokens], keys: Sequence[str], seed: int, plan: Sequence[CaptionSettings]
    ) -> list[list[SampledCaption]]:
        """A caption of every image for each entry of the plan.

        Raises:
            EngineError: settings out of range, or too many tokens for the model.
        """
        self._server.ready()
        check_settings(plan)
        if not plan or not images:
            return [[] for _ in images]
        # A candidate's seed comes from what it is, not from the batch it happens to be in.
        seeds = [[sample_seed(seed, key, "caption", i) for i in range(len(plan))] for key in keys]
        sampled: Sampled = []
        for part, seen in self._prompts.windows(images):
            if self._limits is None:
                sampled += self._paged(seen, plan, seeds[part])
            else:
                sampled += self._branched(seen, plan, seeds[part], self._limits)
        return [
            [self._caption(one, of_one) for one, of_one in zip(*rows, strict=True)]
            for rows in zip(sampled, seeds, strict=True)
        ]

    def _branched(
        self,
        images: Sequence[ImageTokens],
        plan: Sequence[CaptionSettings],
        seeds: Sequence[Sequence[int]],
        limits: Limits,
    ) -> Sampled:
        n, longest = len(plan), max(one.max_tokens for one in plan)
        prefixes = [self._prompts.prefix(image, self._prompt, longest) for image in images]
        length = len(prefixes[0].ids)
        batch = limits.prefixes(self._config, length, n, longest)
        sampled: Sampled = self._server.rpc(
            "captioning failed", "hermes_sample", prefixes, plan, seeds, batch
        )
        # Of n candidates' prompts, one is computed and the others share it.
        self._server.meter.prompts(n * length * len(images), (n - 1) * length * len(images))
        return sampled

    def _paged(
        self,
        images: Sequence[ImageTokens],
        plan: Sequence[CaptionSettings],
        seeds: Sequence[Sequence[int]],
    ) -> Sampled:
        n, longest = len(plan), max(one.max_tokens for one in plan)
        params = [
            self._server.sampling(
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
        texts = [self._prompt] * n
        requests = [one for image in images for one in self._prompts.requests(image, texts, longest)]
        sampled = []
        for output in self._server.generate(requests, params):
            ids, steps = output.outputs[0].token_ids, output.outputs[0].logprobs
            logps = [step[token].logprob for token, step in zip(ids, steps, strict=True)]
            sampled.append(SampledSequence(list(ids), logps))
        return [sampled[start : start + n] for start in range(0, len(sampled), n)]

    def _caption(self, sampled: SampledSequence, seed: int) -> SampledCaption:
        eos = self._config.vocabulary.eos
        ids, ended = tuple(token for token in sampled.ids if token != eos), sampled.ids[-1] == eos
        return SampledCaption(self._text.decode(ids), ids, tuple(sampled.logps), seed, ended)

    def score(self, images: Sequence[ImageTokens], captions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of given captions after the caption prompt: one number a token, and one for eos."""
        tails = [[*caption, self._config.vocabulary.eos] for caption in captions]
        # vLLM gives the log-probs of a prompt's own tokens; the one that it must generate is thrown away.
        params = self._server.sampling(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        scores = []
        for part, seen in self._prompts.windows(images):
            requests = [
                one
                for image, tail in zip(seen, tails[part], strict=True)
                for one in self._prompts.requests(image, [[*self._prompt, *tail]], 1)
            ]
            outputs = self._server.generate(requests, [params] * len(requests))
            for tail, output in zip(tails[part], outputs, strict=True):
                steps = output.prompt_logprobs[-len(tail) :]
                scores.append([step[token].logprob for token, step in zip(tail, steps, strict=True)])
        return scores
