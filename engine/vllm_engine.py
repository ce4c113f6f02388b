"""The serving engine: captions, answers and images from one set of weights held by vLLM, swapped in place.

Prompts are token ids, or projected CLIP features among them (`vllm_prompts`). Every request that reaches vLLM
starts with a whole image, whose digest salts its cache blocks; images are painted by the mask-predict sampler
inside vLLM's worker, on the same weights.

Legend: B images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from engine import vllm_launch
from engine.asking import ANSWER_TOKENS, ask, settled, wording
from engine.checkpoints import CLIP_FOLDER
from engine.errors import CheckpointError, EngineError
from engine.models.clip_tower import ClipTower
from engine.models.showo_config import ShowoConfig
from engine.records import (
    Answer,
    AnswerSettings,
    CaptionSettings,
    ImageTokens,
    PaintSettings,
    Question,
    SampledCaption,
    SampledImage,
)
from engine.samplers.choices import Chosen
from engine.samplers.mask_predict_rule import check_schedule
from engine.seeds import sample_seed
from engine.swap_check import check_swap, check_weights
from engine.tokenizers.image import load_image_tokenizer, scaled, to_pixels, to_uint8
from engine.tokenizers.text import TextTokenizer
from engine.vllm_prompts import CodePrompts, FeaturePrompts
from engine.weights import WEIGHTS, fingerprint, load_config

if TYPE_CHECKING:
    from vllm import SamplingParams

FREE_TEXT = AnswerSettings()
PIXEL_BATCH = 64


class Engine:
    """Serves one checkpoint at a time; not thread-safe, and calls do not overlap.

    Raises (constructor):
        CheckpointError: files are missing or unreadable, or the weights do not fit the configuration.
        EngineError: vLLM could not start.
    """

    def __init__(
        self,
        checkpoint: Path,
        *,
        dtype: str = "float32",
        max_sequences: int = 128,
        kv_cache_gib: float = 0.0,
        paint_batch: int | None = None,
        tensor_parallel: int = 1,
    ) -> None:
        """`paint_batch` is the number of canvases that share a forward pass (16 where None).

        A `kv_cache_gib` of 0 is planned from the model's sizes. `tensor_parallel` is the number of processes
        that share every layer.
        """
        self._config = load_config(checkpoint)
        check_weights(checkpoint, self._config)
        self._text = TextTokenizer.load(checkpoint / "tokenizer.json")
        self._image = load_image_tokenizer(checkpoint / "image_tokenizer")
        self._fingerprint = fingerprint(checkpoint)
        self._checkpoint = self._tokenizers = checkpoint
        self._prompts = self._open_prompts(checkpoint)
        self._version = 0
        self._paint_batch = paint_batch or 16
        self._broken = ""
        self._llm = vllm_launch.start(
            checkpoint, self._config, dtype, max_sequences, kv_cache_gib, tensor_parallel
        )
        self._closed = False

    @property
    def config(self) -> ShowoConfig:
        """The served model's configuration; a swap never changes it."""
        return self._config

    @property
    def fingerprint(self) -> str:
        """`engine.weights.fingerprint` of the weights that serve."""
        return self._fingerprint

    @property
    def version(self) -> int:
        """Number of swaps since the start."""
        return self._version

    def encode(self, images: np.ndarray) -> list[ImageTokens]:
        """uint8 [B, H, W, 3] -> the codes of each, and its features where understanding sees those.

        With features, square images of any size will do: CLIP sees them as they are, and they are scaled for
        the codes.
        """
        if not isinstance(self._prompts, FeaturePrompts):
            return [ImageTokens(codes=codes) for codes in self._codes(images)]
        codes = self._codes(scaled(images, self._image.config.image_size))
        features = self._prompts.features(images)
        return [ImageTokens(codes=one, features=seen) for one, seen in zip(codes, features, strict=True)]

    def _codes(self, images: np.ndarray) -> list[tuple[int, ...]]:
        pixels = to_pixels(torch.from_numpy(np.ascontiguousarray(images)))
        parts = [self._image.encode(part) for part in pixels.split(PIXEL_BATCH)]
        return [tuple(row) for part in parts for row in part.tolist()]

    def decode(self, codes: Sequence[Sequence[int]]) -> np.ndarray:
        """Codes of B images -> uint8 [B, H, W, 3]."""
        parts = torch.tensor([list(row) for row in codes]).split(PIXEL_BATCH)
        return torch.cat([to_uint8(self._image.decode(part)) for part in parts]).numpy()

    def caption(
        self,
        images: Sequence[ImageTokens],
        keys: Sequence[str],
        seed: int,
        plan: Sequence[CaptionSettings],
    ) -> list[list[SampledCaption]]:
        """A caption of every image for each entry of the plan, which says how it is sampled.

        Candidate i of an image has the seed of (seed, its key, "caption", i).

        `token_ids` lack the final eos; `logprobs` are the model's own (before temperature and cuts), one a
        token and one more for eos where the caption ended by itself.
        """
        self._same_length("keys", keys, images)
        eos, prompt, n = (
            self._config.vocabulary.eos,
            self._text.encode(self._config.caption_prompt),
            len(plan),
        )
        seeds = [sample_seed(seed, key, "caption", i) for key in keys for i in range(n)]
        params = [
            self._sampling(
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                repetition_penalty=settings.repetition_penalty,
                max_tokens=settings.max_tokens,
                seed=one,
                logprobs=0,
            )
            for one, settings in zip(seeds, cycle(plan), strict=False)
        ]
        longest = max((settings.max_tokens for settings in plan), default=0)
        found = []
        for output, one in zip(
            self._continue(images, [[prompt] * n] * len(images), longest, params), seeds, strict=True
        ):
            ids, steps = output.outputs[0].token_ids, output.outputs[0].logprobs
            logprobs = tuple(step[token].logprob for token, step in zip(ids, steps, strict=True))
            kept = tuple(token for token in ids if token != eos)
            text = self._text.decode(kept)
            found.append(SampledCaption(text=text, token_ids=kept, logprobs=logprobs, seed=one))
        return [found[i * n : (i + 1) * n] for i in range(len(images))]

    def answer(
        self,
        images: Sequence[ImageTokens],
        questions: Sequence[Sequence[Question]],
        settings: AnswerSettings = FREE_TEXT,
    ) -> list[list[Answer]]:
        """The answer to every question of every image; an image's questions share its prefix.

        All choices of all questions of an image are read in one pass, without decoding. That decides in
        likelihood mode; in text mode it gives the answers whose greedy text is a choice, and vLLM decodes the
        rest.

        Raises:
            EngineError: a question without choices in likelihood mode, or a question that is too long.
        """
        self._same_length("questions", questions, images)
        found: list[list[Answer]] = []
        for part in self._windows(images):
            found += self._answers(self._prompts.seen(images[part]), questions[part], settings)
        return found

    def _answers(
        self, images: Sequence[ImageTokens], questions: Sequence[Sequence[Question]], settings: AnswerSettings
    ) -> list[list[Answer]]:
        encode, config = self._text.encode, self._config
        asked = [
            [ask(encode(wording(config, one, settings)), one, encode) for one in row] for row in questions
        ]
        if settings.mode == "likelihood" or settings.drafts:
            rows = [self._prompts.choices(*pair) for pair in zip(images, asked, strict=True)]
            read: list[list[list[Chosen]]] = self._rpc("reading choices failed", "hermes_choose", rows)
        else:
            read = [[[] for _ in row] for row in asked]
        found = [
            [
                settled(question, one.choices, chosen, settings, self._text.decode)
                for question, one, chosen in zip(*rows, strict=True)
            ]
            for rows in zip(questions, asked, read, strict=True)
        ]
        texts = [
            [one.text for one, answer in zip(*rows, strict=True) if answer is None]
            for rows in zip(asked, found, strict=True)
        ]
        decoded = iter(self._decoded(images, texts))
        return [
            [
                answer or Answer(text=next(decoded), choice_logps=tuple(one.logp for one in chosen))
                for answer, chosen in zip(*rows, strict=True)
            ]
            for rows in zip(found, read, strict=True)
        ]

    def _decoded(self, images: Sequence[ImageTokens], texts: Sequence[Sequence[Sequence[int]]]) -> list[str]:
        """The greedy free text after every text of every image."""
        greedy = [self._sampling(temperature=0.0, max_tokens=ANSWER_TOKENS)] * sum(map(len, texts))
        eos = self._config.vocabulary.eos
        return [
            self._text.decode([token for token in output.outputs[0].token_ids if token != eos])
            for output in self._generate(self._requests(images, texts, ANSWER_TOKENS), greedy)
        ]

    def paint(
        self, prompts: Sequence[str], n: int, keys: Sequence[str], seed: int, settings: PaintSettings
    ) -> list[list[SampledImage]]:
        """n images of every prompt; candidate i of a prompt has the seed of (seed, its key, "paint", i)."""
        self._same_length("keys", keys, prompts)
        if settings.steps < 1:
            raise EngineError(f"painting takes at least 1 step, not {settings.steps}")
        check_schedule(settings.schedule)
        seeds = [[sample_seed(seed, key, "paint", i) for i in range(n)] for key in keys]
        texts = [self._text.encode(prompt) for prompt in prompts]
        painted = self._rpc("painting failed", "hermes_paint", texts, seeds, settings, self._paint_batch)
        return [
            [SampledImage(codes=tuple(codes), seed=one) for codes, one in zip(rows, row, strict=True)]
            for rows, row in zip(painted, seeds, strict=True)
        ]

    def score(self, images: Sequence[ImageTokens], texts: Sequence[str]) -> list[list[float]]:
        """Log-probs of given captions after the caption prompt: one number a token, and one for eos."""
        self._same_length("texts", texts, images)
        prompt, eos = self._text.encode(self._config.caption_prompt), self._config.vocabulary.eos
        tails = [[*self._text.encode(text), eos] for text in texts]
        params = self._sampling(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        outputs = self._continue(images, [[[*prompt, *tail]] for tail in tails], 1, [params] * len(tails))
        return [
            [step[token].logprob for token, step in zip(tail, out.prompt_logprobs[-len(tail) :], strict=True)]
            for tail, out in zip(tails, outputs, strict=True)
        ]

    def swap(self, checkpoint: Path) -> None:
        """Serves another checkpoint of the same model, all or nothing: on any error the old weights serve on.

        Raises:
            CheckpointError: it does not fit; all reasons are listed.
            EngineError: it fits, but could not be loaded.
        """
        self._ready()
        check_swap(checkpoint, self._tokenizers, self._config)
        new = fingerprint(checkpoint)
        with vllm_launch.translated("resetting vLLM's caches failed"):
            # First, because this can be refused; nothing fills them again before the load below.
            if not self._llm.reset_prefix_cache():
                raise EngineError("the prefix cache is in use; was a swap called during a request?")
            self._llm.reset_mm_cache()
            self._llm.llm_engine.reset_encoder_cache()
        what = f"{checkpoint}: loading failed, the weights from {self._checkpoint} still serve"
        self._rpc(what, "hermes_load", str(checkpoint / WEIGHTS))
        self._checkpoint, self._fingerprint = checkpoint, new
        self._version += 1

    def close(self) -> None:
        """Ends vLLM; safe to call again."""
        if not self._closed:
            self._closed = True
            vllm_launch.stop(self._llm)
            del self._llm

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ready(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed; start a new one")
        if self._broken:
            raise EngineError(self._broken)

    def _rpc(self, what: str, method: str, *args: Any) -> Any:
        """A worker method's result; with several workers all give the same one."""
        self._ready()
        with vllm_launch.translated(what):
            return self._llm.collective_rpc(method, args=args)[0]

    def _open_prompts(self, checkpoint: Path) -> CodePrompts | FeaturePrompts:
        config = self._config
        if not config.w_clip_vit:
            return CodePrompts(config)
        tower = ClipTower.load(checkpoint / CLIP_FOLDER)
        if (tower.tokens, tower.width) != (config.clip_tokens, config.clip_size):
            raise CheckpointError(
                f"{checkpoint / CLIP_FOLDER}: gives {tower.tokens} features of {tower.width},"
                f" the model takes {config.clip_tokens} of {config.clip_size}"
            )
        return FeaturePrompts(config, tower, self.decode, self._project)

    def _project(self, features: Tensor) -> Tensor:
        return self._rpc("projecting features failed", "hermes_project", features)

    def _request(self, image: ImageTokens, text: Sequence[int], room: int) -> dict[str, Any]:
        """A prompt for vLLM that leaves `room` tokens for the answer."""
        (seen,) = self._prompts.seen([image])
        return self._prompts.requests(seen, [text], room)[0]

    def _requests(
        self, seen: Sequence[ImageTokens], texts: Sequence[Sequence[Sequence[int]]], room: int
    ) -> list[dict[str, Any]]:
        return [
            request
            for image, after in zip(seen, texts, strict=True)
            for request in self._prompts.requests(image, after, room)
        ]

    def _windows(self, images: Sequence[ImageTokens]) -> list[slice]:
        """The images in parts that are prepared together."""
        size = self._prompts.window or max(1, len(images))
        return [slice(start, start + size) for start in range(0, len(images), size)]

    def _continue(
        self,
        images: Sequence[ImageTokens],
        texts: Sequence[Sequence[Sequence[int]]],
        room: int,
        params: Sequence[SamplingParams],
    ) -> list[Any]:
        """vLLM's outputs to every text of every image, in order; `params` has one for each text."""
        self._ready()
        outputs: list[Any] = []
        for part in self._windows(images):
            requests = self._requests(self._prompts.seen(images[part]), texts[part], room)
            outputs += self._generate(requests, params[len(outputs) : len(outputs) + len(requests)])
        return outputs

    def _sampling(self, **settings: Any) -> SamplingParams:
        from vllm import SamplingParams

        with vllm_launch.translated("vLLM refused the sampling settings"):
            return SamplingParams(detokenize=False, stop_token_ids=[self._config.vocabulary.eos], **settings)

    def _generate(self, requests: list[dict[str, Any]], params: Sequence[SamplingParams]) -> list[Any]:
        self._ready()
        if not requests:
            return []
        with vllm_launch.translated("vLLM failed while generating"):
            try:
                return self._llm.generate(cast(Any, requests), list(params), use_tqdm=False)
            finally:
                # Requests left over from a failed call would answer the next one.
                if self._llm.llm_engine.has_unfinished_requests():
                    self._broken = "an earlier call was cut short inside vLLM; start a new engine"

    @staticmethod
    def _same_length(name: str, given: Sequence[object], others: Sequence[object]) -> None:
        if len(given) != len(others):
            raise EngineError(f"{len(given)} {name} for {len(others)} inputs; give one for each")
