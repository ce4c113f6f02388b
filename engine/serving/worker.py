"""What Hermes adds to vLLM's worker: painting and weight swaps, run where the weights are.

vLLM mixes this class into its own worker (`worker_extension_cls`) and reaches it by `collective_rpc`, so
the names must not meet the worker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.metering.meter import Counts
from engine.metering.stopwatch import FORWARD
from engine.records import CaptionSettings, PaintSettings
from engine.samplers.branches import Asked, Grown, grow, reply
from engine.samplers.canvas_batches import Kept
from engine.samplers.choice_rows import Seen
from engine.samplers.choices import Chosen, choose
from engine.samplers.mask_predict import paint
from engine.samplers.replay import captured
from engine.samplers.stems import Stem
from engine.serving.reload import Prepared, change_places, emptied, prepare
from engine.serving.sleep import WEIGHTS, give_back
from engine.serving.vllm_transport import Arrivals, receive


class HermesWorker:
    """Methods for `collective_rpc`; `model_runner` and `parallel_config` are the worker's."""

    model_runner: Any
    parallel_config: Any
    _kept: Kept | None = None
    _staged: Prepared = []
    _before: Prepared = []
    _arrived = Arrivals()

    def hermes_paint(
        self,
        texts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        settings: PaintSettings,
        batch: int,
    ) -> list[list[list[int]]]:
        """`engine.samplers.mask_predict.paint` on the weights that serve."""
        model = self.model_runner.get_model()
        if self._kept is None:
            # Processes that share the layers must all compute the same batches, and wait for each other.
            alone = self.parallel_config.tensor_parallel_size == 1
            capture = captured if alone and model.device.type == "cuda" else None
            self._kept = Kept(capture, halves=alone)
        return paint(model, texts, seeds, settings, batch, self._kept)

    def hermes_project(self, features: Tensor) -> Tensor:
        """CLIP features [N, F] through the projector that serves, [N, D] on the CPU."""
        return self.model_runner.get_model().project(features).detach().cpu()

    def hermes_choose(self, images: Sequence[Seen]) -> list[list[list[Chosen]]]:
        """`engine.samplers.choices.choose` on the weights that serve."""
        alone = self.parallel_config.tensor_parallel_size == 1
        return choose(self.model_runner.get_model(), images, halves=alone)

    def hermes_grow(
        self,
        stems: Sequence[Stem],
        plan: Sequence[CaptionSettings],
        seeds: Sequence[Sequence[int]],
        batch: int,
    ) -> list[list[Grown]]:
        """`engine.samplers.branches.grow` on the weights that serve, `batch` stems at a time."""
        model = self.model_runner.get_model()
        found: list[list[Grown]] = []
        for start in range(0, len(stems), batch):
            part = slice(start, start + batch)
            grown = grow(model, stems[part], plan, seeds[part])
            self._decoded([len(one.ids) for row in grown for one in row])
            found += grown
        return found

    def hermes_reply(self, asked: Sequence[Asked], longest: int, batch: int) -> list[list[list[int]]]:
        """`engine.samplers.branches.reply` on the weights that serve, `batch` images at a time."""
        model = self.model_runner.get_model()
        found: list[list[list[int]]] = []
        for start in range(0, len(asked), batch):
            replies = reply(model, asked[start : start + batch], longest)
            self._decoded([len(ids) for row in replies for ids in row])
            found += replies
        return found

    def _decoded(self, lengths: Sequence[int]) -> None:
        model = self.model_runner.get_model()
        model.decode_steps += max(lengths)
        model.decoded_rows += sum(lengths)

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

    def hermes_counts(self) -> Counts:
        """What has been counted since the start."""
        model = self.model_runner.get_model()
        return Counts(FORWARD.seconds, model.decode_steps, model.decoded_rows)

    def hermes_stage(self, path: str) -> None:
        """Lays the weights of a safetensors file out aside."""
        self._stage(load_file(path))

    def hermes_begin(self) -> None:
        """Makes room for weights that vLLM's own transports will bring, piece by piece."""
        self._arrived = Arrivals()

    def hermes_receive(self, update: dict[str, Any]) -> None:
        """One piece of them, which the worker's transfer engine receives; its tensors are kept aside."""
        receive(self, self._arrived, update)

    def hermes_stage_received(self) -> None:
        """Lays out aside what has been received."""
        arrived, self._arrived = self._arrived, Arrivals()
        self._stage(arrived.tensors)

    def _stage(self, state: dict[str, Tensor]) -> None:
        runner = self.model_runner
        self._staged = prepare(runner.get_model(), state, runner.model_config.dtype)

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
        self._before, self._staged, self._arrived = [], [], Arrivals()

    def _change_places(self, prepared: Prepared) -> None:
        self.hermes_forget()
        change_places(prepared, in_place=self._on_gpu)

    @property
    def _on_gpu(self) -> bool:
        return self.model_runner.get_model().device.type == "cuda"

    def hermes_forget(self) -> None:
        """Drops what calls have left for later ones: other weights would give another, and vLLM's sleep would
        leave it on the GPU, for it knows its own pool alone."""
        self._kept = None

    def hermes_sleep(self, level: int) -> None:
        """On a CPU: gives back what keys and values take, at level 2 the weights too; what is asked meanwhile
        fails."""
        if level == WEIGHTS:
            change_places(emptied(self.model_runner.get_model()))
        give_back(self.model_runner.kv_caches)
