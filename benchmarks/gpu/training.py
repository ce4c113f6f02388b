"""One Pair-DPO step of the 1.3B shape: bfloat16 with float32 masters, and blocks computed again.

A step is the log-probs of all rows, the loss, the backward pass and AdamW; the reference's log-probs are
stored ones, so nothing is computed for them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import pair_work
from benchmarks.gpu.place import Found, Measure, Place, need
from benchmarks.shapes import make
from engine.weights import load_model
from train.batch import IGNORE, Layout, PairRows, pair_rows
from train.config import TrainConfig
from train.image_mask import draw_from_seed
from train.loss import Side, batch_loss
from train.row_logps import RowLogps

FIGURES = ("seconds of a step", "tokens a second", "peak memory, GiB")
RATE = 1e-6


class Work:
    """A random checkpoint in a folder, and the rows of one step."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.checkpoint = make(folder, place.pick("showo-1.3b", "tiny"), torch.bfloat16, device=place.device)
        pairs = place.pick(4, 2)
        self.config = TrainConfig(
            batch=pairs,
            dtype="bfloat16",
            device=place.device.type,  # type: ignore[arg-type]
            checkpointing=True,
        )
        layout = Layout.load(self.checkpoint)
        found = pair_work.preferences(layout.config, pairs, place.pick(40, 8), seed=0)
        draws = [[draw_from_seed(number, layout.config.num_image_tokens)] for number in range(pairs)]
        self.batch: PairRows = pair_rows(layout, found, draws)
        self.tokens = int((self.batch.rows.ids_RT != layout.words.pad).sum())

    def loss(self, logp_R: Tensor) -> Tensor:
        """The step's loss on the device, where the reference gives what the policy does."""
        here_R, batch = logp_R.cpu(), self.batch
        policy, frozen = batch.split(here_R), batch.split(here_R.detach())
        labels = batch.split((batch.rows.labels_RT != IGNORE).sum(1).to(here_R.dtype))
        captions, images = (
            Side(
                policy_win_P=policy[at],
                policy_lose_P=policy[at + 1],
                reference_win_P=frozen[at],
                reference_lose_P=frozen[at + 1],
                tokens_win_P=labels[at],
                has_P=batch.has(places),
            )
            for at, places in ((0, batch.captions), (2, batch.images))
        )
        return batch_loss(captions, images, self.config).total.to(logp_R.device)

    def measured(self, step: Callable[[], object], how: str) -> Found:
        """Seconds, tokens and memory of a step."""
        seconds = self.place.seconds({"": lambda _: step()})[""]
        figures = (seconds, [self.tokens / one for one in seconds], [self.place.peak_gib(step)])
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
    need("deepspeed")
    from train.zero3 import Policy, process_group

    with tempfile.TemporaryDirectory() as folder:
        work = Work(place, Path(folder))
        with process_group(work.config):
            policy = Policy(work.config, work.checkpoint)
            return work.measured(
                lambda: policy.step([work.loss(policy(work.batch.rows))], RATE), "DeepSpeed ZeRO-3"
            )


MEASURES = {"torch alone": Measure(torch_alone, FIGURES), "DeepSpeed": Measure(sharded, FIGURES)}
