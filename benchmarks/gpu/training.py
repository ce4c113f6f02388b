"""One Pair-DPO step of the 1.3B shape: bfloat16 with float32 masters, and blocks computed again.

A step is the log-probs of all rows, the loss, the backward pass and AdamW. The reference's log-probs are
stored ones, which cost nothing, and are left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.place import Found, Measure, Place
from benchmarks.speed import workload
from benchmarks.speed.model_sizes import make
from engine.checkpoints.weights import load_model
from train.config import TrainConfig
from train.data.batch import Layout, PairRows, pair_rows
from train.data.image_mask import image_mask
from train.logps.row_logps import RowLogps

RATE = 1e-6


class Work:
    """A random checkpoint in a folder, and the rows of one step."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.checkpoint = make(folder, place.pick("showo-1.3b", "tiny"), torch.bfloat16, device=place.device)
        pairs = place.pick(4, 2)
        self.config = TrainConfig(batch_size=pairs, dtype="bfloat16", gradient_checkpointing=True)
        layout = Layout.load(self.checkpoint)
        found = workload.preferences(layout.config, pairs, place.pick(40, 8), seed=0)
        masks = [[image_mask(number, layout.config.num_image_tokens)] for number in range(pairs)]
        self.batch: PairRows = pair_rows(layout, found, masks)
        self.tokens = int((self.batch.rows.ids_RT != layout.words.pad).sum())

    def loss(self, logp_R: Tensor) -> Tensor:
        """Pair-DPO's sum of a caption and an image loss."""
        captions, other_captions, images, other_images = self.batch.split(logp_R)
        margins_2P = torch.stack((captions - other_captions, images - other_images))
        return -F.logsigmoid(self.config.beta * margins_2P).mean(1).sum()

    def measured(self, step: Callable[[], object], how: str) -> Found:
        """Seconds, tokens and memory of a step."""
        seconds = self.place.seconds({"": lambda _: step()})[""]
        figures = {
            "seconds of a step": seconds,
            "tokens a second": [self.tokens / one for one in seconds],
            "peak memory, GiB": [self.place.peak_gib(step)],
        }
        what = f"{len(self.batch.rows.ids_RT)} rows, {self.tokens:,} tokens, bfloat16, {how}"
        return Found(what, figures)


def torch_alone(place: Place) -> Found:
    """A step without DeepSpeed."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work(place, Path(folder))
        model = load_model(work.checkpoint, torch.bfloat16).to(place.device).train()
    model.checkpointing = True
    scorer, rows = RowLogps(model), work.batch.rows.to(place.device)
    held: list[Tensor] = list(model.parameters())
    masters = [one.detach().float() for one in held]
    optimizer = torch.optim.AdamW(masters, lr=RATE)

    def step() -> None:
        work.loss(scorer(*rows)).backward()
        for one, master in zip(held, masters, strict=True):
            if one.grad is not None:
                master.grad, one.grad = one.grad.float(), None
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(held, masters)

    return work.measured(step, "AdamW on float32 masters")


def sharded(place: Place) -> Found:
    """The same step through DeepSpeed ZeRO-3, as `hermes train` takes it, in a group of one."""
    import_module("deepspeed")
    from train.distributed.policy import Policy, process_group

    with tempfile.TemporaryDirectory() as folder:
        work = Work(place, Path(folder))
        with process_group(work.config):
            policy = Policy(work.config, work.checkpoint)
            return work.measured(
                lambda: policy.step([work.loss(policy(work.batch.rows))], RATE), "DeepSpeed ZeRO-3"
            )


MEASURES: dict[str, Measure] = {"torch alone": torch_alone, "DeepSpeed": sharded}
