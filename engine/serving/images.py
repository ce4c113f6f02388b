"""Images from texts: what `Engine.generate_images` does.

Show-o generates them by mask-predict: all codes of an image are masked at first, and a fixed number of steps
fills them in (`samplers.mask_predict`). That runs in vLLM's worker, on the weights that serve.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.errors import EngineError
from engine.models.showo_config import ShowoConfig
from engine.records import ImageSettings, SampledImage
from engine.samplers.batch_size import planned_batch, planned_gpu_batch
from engine.samplers.mask_predict_rule import check_schedule
from engine.samplers.seeds import sample_seed
from engine.serving.server import Server
from engine.tokenizers.text import TextTokenizer


class Images:
    """Samples images of prompts."""

    def __init__(
        self,
        server: Server,
        text: TextTokenizer,
        config: ShowoConfig,
        device: torch.device,
        threads: int,
        batch: int | None,
    ) -> None:
        """`batch` images share a forward pass; None plans how many, from the threads or for a GPU."""
        self._server, self._text, self._config = server, text, config
        self._device, self._threads, self._batch = device, threads, batch

    def sample(
        self, prompts: Sequence[str], n: int, keys: Sequence[str], seed: int, settings: ImageSettings
    ) -> list[list[SampledImage]]:
        """n images of every prompt.

        Raises:
            EngineError: there are no steps, the schedule is not known, or memory ran out.
        """
        if settings.steps < 1:
            raise EngineError(f"generating images takes at least 1 step, not {settings.steps}")
        check_schedule(settings.schedule)
        # The kind is an early name: another one would change every image.
        seeds = [[sample_seed(seed, key, "paint", i) for i in range(n)] for key in keys]
        texts = [self._text.encode(prompt) for prompt in prompts]
        sampled = self._server.rpc(
            "generating images failed",
            "hermes_generate_images",
            texts,
            seeds,
            settings,
            self._batch or self._planned(n),
        )
        return [
            [SampledImage(codes=tuple(codes), seed=one) for codes, one in zip(*rows, strict=True)]
            for rows in zip(sampled, seeds, strict=True)
        ]

    def _planned(self, candidates: int) -> int:
        if self._device.type == "cuda":
            return planned_gpu_batch(self._config, candidates)
        return planned_batch(self._config, self._threads)
