"""The serving engine: captions, answers and images from one set of weights held by vLLM, swapped in place.

Prompts are token ids, or projected CLIP features among them (`vllm_prompts`). Every request that reaches vLLM
starts with a whole image, whose digest salts its cache blocks; images are painted by the mask-predict sampler
inside vLLM's worker, on the same weights.

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
from engine.checkpoints.swap_probe import Canaries, check_songs
from engine.checkpoints.weights import fingerprint, load_config
from engine.devices import compute_device, enough_memory
from engine.errors import EngineError
from engine.machine.kv_cache import branched_gib
from engine.machine.precision import serving_dtype
from engine.metering.counters import CallKind, EngineWork, Tally
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
from engine.samplers.continuations import Limits
from engine.samplers.setting import sampler_for
from engine.serving.answers import Answers
from engine.serving.captions import Captions
from engine.serving.exclusive import Gate
from engine.serving.images import Images
from engine.serving.prompts import FeaturePrompts, open_prompts
from engine.serving.server import Server
from engine.serving.swap import ServedWeights
from engine.serving.vllm_transport import Client, Sender, require_transport
from engine.tokenizers.codec import Pixels
from engine.tokenizers.text import TextTokenizer
from engine.transport.delivery import from_disk

FREE_TEXT = AnswerSettings()


class Engine:
    """Serves one checkpoint at a time; not thread-safe, and calls do not overlap.

    Raises (constructor):
        CheckpointError: files are missing or unreadable, or the weights do not fit the configuration.
        EngineError: vLLM could not start, or the transport is not for this machine.
    """

    def __init__(
        self,
        checkpoint: Path,
        *,
        dtype: str = "float32",
        max_sequences: int = 256,
        kv_cache_gib: float = 0.0,
        paint_batch: int | None = None,
        tensor_parallel: int = 1,
        transport: str = "disk",
        sampler: str = "auto",
        deterministic: bool = True,
    ) -> None:
        """`paint_batch` is the number of images that share a forward pass (planned where None).

        `dtype` is as in `engine.machine.precision`. A `kv_cache_gib` of 0 is planned
        from the model's sizes. `tensor_parallel` is the number of processes that share every layer.
        `transport` is how a swap's weights come where they are offered so: disk, shared (`transport.shared`),
        or one of vLLM's (`vllm_transport`). A checkpoint that nobody offers is read from its folder.
        `sampler` is as in `engine.samplers.setting`. `deterministic` takes kernels on a GPU whose results do
        not depend on what else is in a batch; on a CPU it changes nothing.
        """
        require_transport(transport)
        self._device = compute_device()
        self._sampler = sampler_for(sampler, self._device)
        self._config = load_config(checkpoint)
        check_weights(checkpoint, self._config, from_disk(checkpoint).manifest())
        self.text = TextTokenizer.load(checkpoint / "tokenizer.json")
        with enough_memory(f"{checkpoint}: the tokenizers could not be loaded"):
            self._pixels = Pixels(checkpoint / "image_tokenizer", self._device)
            self.prompts = open_prompts(
                checkpoint, self._config, self._pixels.images, self._project, self._device
            )
        found = fingerprint(checkpoint)
        self._precision = serving_dtype(dtype)
        limits = None
        if self._sampler == "branched":
            own = kv_cache_gib or branched_gib(self._config, self._precision, max_sequences)
            limits = Limits(self._precision, max_sequences, own)
        self._gate = Gate()
        transfer = "" if transport in ("disk", "shared") else transport
        self.server = Server(
            checkpoint,
            self._config,
            self._precision,
            max_sequences,
            kv_cache_gib,
            tensor_parallel,
            transfer,
            deterministic,
        )
        self._weights = ServedWeights(self.server, self._gate, self._config, checkpoint, found, transport)
        self._captions = Captions(self.server, self.prompts, self.text, self._config, limits)
        self._answers = Answers(self.server, self.prompts, self.text, self._config, limits)
        # After vLLM's start, which may change the number of threads.
        threads = torch.get_num_threads() // tensor_parallel
        self._images = Images(self.server, self.text, self._config, self._device, threads, paint_batch)

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

    def paint(
        self, prompts: Sequence[str], n: int, keys: Sequence[str], seed: int, settings: PaintSettings
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
        with self._gate.call():
            return self._captions.score(images, [self.text.encode(text) for text in texts])

    @contextmanager
    def _call(self, kind: CallKind) -> Iterator[Tally]:
        with self._gate.call(), enough_memory(f"{kind} failed"), self.server.meter.call(kind) as tally:
            yield tally

    def client(self) -> Client:
        """What one of vLLM's trainer engines is made with, whose weights `swap` is to take."""
        return self._weights.client

    def swap(self, checkpoint: Path, sender: Sender | None = None) -> None:
        """Serves another checkpoint of the same model, all or nothing: on any error the old weights serve on.

        `sender` sends the checkpoint's tensors (`vllm_transport`). Where the checkpoint has canaries
        (`engine.checkpoints.swap_probe`), the new weights serve only if they give what the trainer's model
        gave. Other calls are refused meanwhile.

        Raises:
            CheckpointError: it does not fit, all reasons are listed; or it does not give what it should.
            EngineError: it fits, but could not be loaded; or a call is in flight, or the engine sleeps.
        """
        self._weights.swap(checkpoint, sender, self._listen)

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

    def _listen(self, canaries: Canaries, checkpoint: Path) -> None:
        images = [ImageTokens(codes=song.codes) for song in canaries.songs]
        scores = self._captions.score(images, [song.token_ids for song in canaries.songs])
        check_songs(canaries, [sum(one) for one in scores], self._precision, checkpoint)

    def close(self) -> None:
        """Ends vLLM; safe to call again."""
        self._weights.close()
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
