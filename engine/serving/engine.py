"""The serving engine: captions, answers and images from one set of weights held by vLLM, swapped in place.

Prompts are token ids, or projected CLIP features among them (`serving.prompts`). Every request that reaches
vLLM starts with a whole image, whose digest salts its cache blocks. Images are sampled by mask-predict inside
vLLM's worker, on the same weights.

Legend: B images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from engine.checkpoints.compatibility import check_weights
from engine.checkpoints.swap_probe import ProbeSet, check_probe_logps
from engine.checkpoints.weights import fingerprint, load_config
from engine.devices import compute_device, enough_memory
from engine.errors import EngineError
from engine.machine.kv_cache import branched_gib, least_gib, paged_head
from engine.machine.precision import serving_dtype
from engine.metering.counters import CallKind, EngineWork, Tally
from engine.models.showo_config import ShowoConfig
from engine.records import (
    Answer,
    AnswerSettings,
    CaptionSettings,
    ImageSettings,
    ImageTokens,
    Question,
    SampledCaption,
    SampledImage,
)
from engine.samplers.continuations import Limits
from engine.samplers.setting import sampler_for
from engine.serving.answers import Answers
from engine.serving.captions import Captions
from engine.serving.exclusive import ExclusiveAccess
from engine.serving.images import Images
from engine.serving.prompts import FeaturePrompts, open_prompts
from engine.serving.server import Server
from engine.serving.swap import ServedWeights
from engine.tokenizers.codec import Pixels
from engine.tokenizers.text import TextTokenizer

FREE_TEXT = AnswerSettings()


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
        max_sequences: int = 256,
        kv_cache_gib: float = 0.0,
        image_batch: int | None = None,
        tensor_parallel: int = 1,
        sampler: str = "auto",
        deterministic: bool = True,
    ) -> None:
        """`image_batch` is the number of images that share a forward pass (planned where None).

        `dtype` is as in `engine.machine.precision`. `kv_cache_gib` is what each process gets for the keys and
        values of the sampler that serves; 0 is planned from the model's sizes. `tensor_parallel` is the
        number of processes that share every layer. `sampler` is as in `engine.samplers.setting`.
        `deterministic` takes kernels on a GPU whose results do not depend on what else is in a batch; on
        a CPU it changes nothing.
        """
        self._device = compute_device()
        self._sampler = sampler_for(sampler, self._device)
        self._config = load_config(checkpoint)
        check_weights(checkpoint, self._config)
        self.text = TextTokenizer.load(checkpoint / "tokenizer.json")
        with enough_memory(f"{checkpoint}: the tokenizers could not be loaded"):
            self._pixels = Pixels(checkpoint / "image_tokenizer", self._device)
            self.prompts = open_prompts(
                checkpoint, self._config, self._pixels.images, self._project, self._device
            )
        found = fingerprint(checkpoint)
        self._precision = serving_dtype(dtype)
        # None where vLLM samples, which has limits of its own.
        limits = None
        if self._sampler == "branched":
            sizes = self._config, self._precision, max_sequences, tensor_parallel
            own = tensor_parallel * (kv_cache_gib or branched_gib(*sizes))
            limits = Limits(self._precision, max_sequences, own)
            # vLLM samples nothing then: its cache is for the probes after a swap, and for `score`.
            head = paged_head(self._config.head_dim)
            kv_cache_gib = least_gib(self._config, self._precision, head, tensor_parallel)
        self._access = ExclusiveAccess()
        self.server = Server(
            checkpoint,
            self._config,
            self._precision,
            max_sequences,
            kv_cache_gib,
            tensor_parallel,
            deterministic,
        )
        self._weights = ServedWeights(self.server, self._access, self._config, checkpoint, found)
        self._captions = Captions(self.server, self.prompts, self.text, self._config, limits)
        self._answers = Answers(self.server, self.prompts, self.text, self._config, limits)
        # After vLLM's start, which may change the number of threads.
        threads = torch.get_num_threads() // tensor_parallel
        self._images = Images(self.server, self.text, self._config, self._device, threads, image_batch)

    @property
    def config(self) -> ShowoConfig:
        """The served model's configuration; a swap never changes it."""
        return self._config

    @property
    def fingerprint(self) -> str:
        """`engine.checkpoints.weights.fingerprint` of the weights that serve."""
        return self._weights.fingerprint

    @property
    def precision(self) -> str:
        """The floating-point type of the arithmetic."""
        return self._precision

    @property
    def sampler(self) -> str:
        """Who samples captions and answers: branched or paged (`engine.samplers.setting`)."""
        return self._sampler

    @property
    def version(self) -> int:
        """Number of swaps since the start."""
        return self._weights.version

    @property
    def work(self) -> EngineWork:
        """What was done so far, and how long it took."""
        return self.server.meter.work

    def encode(self, images: np.ndarray) -> list[ImageTokens]:
        """uint8 [B, H, W, 3] -> the codes of each, and its features where understanding sees those.

        With features, square images of any size will do: CLIP sees them as they are, and they are scaled for
        the codes.
        """
        with self._call("pixels") as tally:
            tally.samples = len(images)
            return self._encoded(images)

    def _encoded(self, images: np.ndarray) -> list[ImageTokens]:
        if not isinstance(self.prompts, FeaturePrompts):
            return [ImageTokens(codes=codes) for codes in self._pixels.codes(images)]
        codes = self._pixels.codes(self._pixels.scaled(images))
        features = self.prompts.features(images)
        return [ImageTokens(codes=one, features=seen) for one, seen in zip(codes, features, strict=True)]

    def decode(self, codes: Sequence[Sequence[int]]) -> np.ndarray:
        """Codes of B images -> uint8 [B, H, W, 3]."""
        with self._call("pixels") as tally:
            tally.samples = len(codes)
            return self._pixels.images(codes)

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
        with self._call("captions") as tally:
            found = self._captions.sample(images, keys, seed, plan)
            tally.samples = sum(map(len, found))
            tally.tokens = sum(len(one.logprobs) for row in found for one in row)
        return found

    def answer(
        self,
        images: Sequence[ImageTokens],
        questions: Sequence[Sequence[Question]],
        settings: AnswerSettings = FREE_TEXT,
    ) -> list[list[Answer]]:
        """The answer to every question of every image; an image's questions share its prefix.

        All choices of all questions of an image are read in one pass, without decoding. That decides in
        likelihood mode; in text mode it gives the answers whose greedy text is a choice, and the rest is
        decoded.

        Raises:
            EngineError: a question without choices in likelihood mode, or a question that is too long.
        """
        self._same_length("questions", questions, images)
        with self._call("answers") as tally:
            found = self._answers.answer(images, questions, settings)
            tally.samples = sum(map(len, found))
        return found

    def generate_images(
        self, prompts: Sequence[str], n: int, keys: Sequence[str], seed: int, settings: ImageSettings
    ) -> list[list[SampledImage]]:
        """n images of every prompt; candidate i of a prompt has the seed of (seed, its key, "paint", i)."""
        self._same_length("keys", keys, prompts)
        with self._call("images") as tally:
            found = self._images.sample(prompts, n, keys, seed, settings)
            tally.samples = sum(map(len, found))
            tally.tokens = tally.samples * self._config.num_image_tokens
        return found

    def score(self, images: Sequence[ImageTokens], texts: Sequence[str]) -> list[list[float]]:
        """Log-probs of given captions after the caption prompt: one number a token, and one for eos."""
        self._same_length("texts", texts, images)
        with self._access.call():
            return self._captions.score(images, [self.text.encode(text) for text in texts])

    @contextmanager
    def _call(self, kind: CallKind) -> Iterator[Tally]:
        with self._access.call(), enough_memory(f"{kind} failed"), self.server.meter.call(kind) as tally:
            yield tally

    def swap(self, checkpoint: Path) -> None:
        """Serves another checkpoint of the same model, all or nothing: on any error the old weights serve on.

        Where the checkpoint has probes (`engine.checkpoints.swap_probe`), the new weights serve only if they
        give what the trainer's model gave. Other calls are refused meanwhile.

        Raises:
            CheckpointError: it does not fit, all reasons are listed; or it does not give what it should.
            EngineError: it fits, but could not be loaded; or a call is in flight, or the engine sleeps.
        """
        self._weights.swap(checkpoint, self._verify)

    def sleep(self, level: int = 1) -> None:
        """Gives memory back until `wake`: keys and values at level 1, the weights too at level 2.

        Raises:
            EngineError: there is no such level, it sleeps already, or a call is in flight.
        """
        self._weights.sleep(level)

    def wake(self) -> None:
        """Serves again what it served; after level 2 the weights are read from their checkpoint.

        Raises:
            CheckpointError: that cannot be read, or has changed; the engine sleeps on.
            EngineError: vLLM failed to wake.
        """
        self._weights.wake()

    @contextmanager
    def asleep(self, level: int = 1) -> Iterator[None]:
        """Sleeps while the block runs; stays awake where the level is 0."""
        if level:
            self.sleep(level)
        try:
            yield
        finally:
            self.wake()

    def _verify(self, probes: ProbeSet, checkpoint: Path) -> None:
        images = [ImageTokens(codes=probe.codes) for probe in probes.probes]
        scores = self._captions.score(images, [probe.token_ids for probe in probes.probes])
        check_probe_logps(probes, [sum(one) for one in scores], self._precision, checkpoint)

    def close(self) -> None:
        """Ends vLLM; safe to call again."""
        self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _project(self, features: Tensor) -> Tensor:
        projected: Tensor = self.server.rpc("projecting features failed", "hermes_project", features)
        return projected

    @staticmethod
    def _same_length(name: str, given: Sequence[object], others: Sequence[object]) -> None:
        if len(given) != len(others):
            raise EngineError(f"{len(given)} {name} for {len(others)} inputs; give one for each")
