"""What Hermes adds to vLLM's worker: sampling and weight swaps, run where the weights are.

vLLM mixes this class into its own worker (`worker_extension_cls`) and reaches it by `collective_rpc`, so
the names must not meet the worker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.files.tensors import load_finite
from engine.metering.counters import EngineWork
from engine.metering.stopwatch import FORWARD
from engine.records import CaptionSettings, ImageSettings
from engine.samplers.choices import ChoiceLogprob, read_choices
from engine.samplers.continuations import ImageQuestions, Prefix, SampledSequence, greedy, sample
from engine.samplers.mask_predict import SamplerCache, generate
from engine.samplers.replay import captured
from engine.serving.reload import Prepared, change_places, emptied, prepare
from engine.serving.sleep import WEIGHTS, give_back


class HermesWorker:
    """Methods for `collective_rpc`; `model_runner` and `parallel_config` are the worker's."""

    model_runner: Any
    parallel_config: Any
    _sampler_cache: SamplerCache | None = None
    _staged: Prepared = []
    _before: Prepared = []

    def hermes_generate_images(
        self,
        texts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        settings: ImageSettings,
        batch: int,
    ) -> list[list[list[int]]]:
        """`engine.samplers.mask_predict.generate` on the weights that serve."""
        model = self.model_runner.get_model()
        if self._sampler_cache is None:
            capture = captured if self._alone and model.device.type == "cuda" else None
            self._sampler_cache = SamplerCache(capture, halves=self._alone)
        return generate(model, texts, seeds, settings, batch, self._sampler_cache)

    def hermes_project(self, features: Tensor) -> Tensor:
        """CLIP features [N, F] through the projector that serves, [N, D] on the CPU."""
        projected: Tensor = self.model_runner.get_model().project(features)
        return projected.detach().cpu()

    def hermes_read_choices(self, images: Sequence[ImageQuestions]) -> list[list[list[ChoiceLogprob]]]:
        """`engine.samplers.choices.read_choices` on the weights that serve."""
        return read_choices(self.model_runner.get_model(), images, halves=self._alone)

    def hermes_sample(
        self,
        prefixes: Sequence[Prefix],
        plan: Sequence[CaptionSettings],
        seeds: Sequence[Sequence[int]],
        batch: int,
    ) -> list[list[SampledSequence]]:
        """`engine.samplers.continuations.sample` on the weights that serve."""
        return sample(self.model_runner.get_model(), prefixes, plan, seeds, batch)

    def hermes_answer(self, images: Sequence[ImageQuestions], batch: int) -> list[list[list[int]]]:
        """`engine.samplers.continuations.greedy` on the weights that serve."""
        return greedy(self.model_runner.get_model(), images, batch)

    @property
    def _alone(self) -> bool:
        """Processes that share the layers must all compute the same batches, and wait for each other."""
        return bool(self.parallel_config.tensor_parallel_size == 1)

    def hermes_use_gpu(self) -> None:
        """Has vLLM's steps timed as a whole: where they replay a graph, none of the model's Python runs.

        And keeps PyTorch from cuDNN's attention, which it would take first on Hopper: that one is planned
        anew for every batch size and length, so that an image might get other bits beside other images.
        """
        torch.backends.cuda.enable_cudnn_sdp(False)
        step = self.model_runner.execute_model

        def timed(*args: Any, **settings: Any) -> Any:
            with FORWARD:
                return step(*args, **settings)

        self.model_runner.execute_model = timed

    def hermes_counts(self) -> EngineWork:
        """What has been counted since the start."""
        return EngineWork(
            forward_seconds=FORWARD.seconds,
            decode_steps=FORWARD.decode_steps,
            decoded_rows=FORWARD.decoded_rows,
        )

    def hermes_stage(self, path: str) -> None:
        """Lays the weights of a safetensors file out aside; CheckpointError where one is not finite."""
        runner = self.model_runner
        self._staged = prepare(runner.get_model(), load_finite(Path(path)), runner.model_config.dtype)

    def hermes_exchange(self) -> None:
        """Lets what is laid out aside serve; what served is held until `hermes_settle`."""
        self._change_places(self._staged)
        self._before, self._staged = self._staged, []
        if self._on_gpu:
            # Whatever goes wrong there is to show before anything is computed.
            torch.cuda.synchronize()

    def hermes_settle(self, keep: bool) -> None:
        """Ends a swap: the new weights stay, or the old ones come back if they were exchanged at all."""
        if not keep:
            self._change_places(self._before)
        self._before, self._staged = [], []

    def _change_places(self, prepared: Prepared) -> None:
        self.hermes_forget()
        change_places(prepared, in_place=self._on_gpu)

    @property
    def _on_gpu(self) -> bool:
        device: torch.device = self.model_runner.get_model().device
        return device.type == "cuda"

    def hermes_forget(self) -> None:
        """Drops what calls have left for later ones: other weights would give another, and vLLM's sleep would
        leave it on the GPU, for it knows its own pool alone."""
        self._sampler_cache = None

    def hermes_sleep(self, level: int) -> None:
        """On a CPU: gives back what keys and values take, at level 2 the weights too; what is asked meanwhile
        fails."""
        if level == WEIGHTS:
            change_places(emptied(self.model_runner.get_model()))
        give_back(self.model_runner.kv_caches)
