"""Training on a pretended GPU: nothing mixes devices, and nothing but the reading of log-probs waits for it.

Triton's kernels cannot run on tensors without numbers; the chunked version takes their place, which has the
same inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretended_cuda import CUDA, pretended_cuda
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from engine.files.clip_features import save_features
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import CaptionCandidate, CaptionPair, ImageCandidate, ImagePair, ImageTokens, Preference
from engine.tokenizers.text import word_tokenizer
from train.config import TrainConfig
from train.data.batch import Layout
from train.logps.row_logps import RowLogps
from train.losses.loss import batch_loss
from train.pair_source import PairSource
from train.reference.reference import Reference

TOKENS, SEEN, WIDTH, PAIRS = 9, 16, 24, 4
CONFIG = TrainConfig(batch_size=PAIRS, caption_sft_weight=0.1, image_sft_weight=0.1)


@contextmanager
def pretended() -> Iterator[None]:
    with pretended_cuda(), torch.inference_mode(False), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERMES_LOGPS", "chunked")
        yield


def layout_of(clip: bool, features: Path) -> Layout:
    text = word_tokenizer(["a red cube user give caption for image assistant : ."])
    config = ShowoConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        text_vocab_size=text.size,
        codebook_size=32,
        num_image_tokens=TOKENS,
        max_text_len=12,
        bos_token_id=text.size - 1,
        w_clip_vit=clip,
        clip_tokens=SEEN,
        clip_size=WIDTH,
        system_ids=(1, 2) if clip else (),
    )
    return Layout(config, text, features)


def preferences(features: Path) -> list[Preference]:
    dice = np.random.default_rng(0)

    def caption(number: int) -> CaptionCandidate:
        ids = (1, 2, 3)[: 1 + number]
        return CaptionCandidate(index=number, text="", token_ids=ids, seed=0, score=1.0 - number)

    def image(number: int) -> ImageCandidate:
        codes = tuple(dice.integers(0, 32, TOKENS).tolist())
        return ImageCandidate(index=number, codes=codes, seed=0, answers=(), score=1.0 - number)

    found = []
    for number in range(PAIRS):
        codes = image(number).codes
        seen = dice.standard_normal((SEEN, WIDTH)).astype("<f4").tobytes()
        found.append(
            Preference(
                id=str(number),
                caption="a red cube",
                image_codes=codes,
                image_features=save_features(features, ImageTokens(codes=codes, features=seen)),
                captions=CaptionPair(win=caption(0), lose=caption(1), win_round=0, lose_round=0),
                images=ImagePair(win=image(0), lose=image(1), win_round=0, lose_round=0),
            )
        )
    return found


def source_of(clip: bool, features: Path) -> PairSource:
    draws = (PAIRS, CONFIG.num_masks)
    stored = {name: np.zeros(draws if name.startswith("image") else PAIRS) for name in Reference._fields}
    stored = {name: values.astype(np.float32) for name, values in stored.items()}
    reference = Reference(**{**stored, "mask_seed": np.zeros(draws, np.int64)})
    return PairSource(CONFIG, preferences(features), layout_of(clip, features), reference)


def on_gpu(layout: Layout, dtype: torch.dtype) -> RowLogps:
    """The scorer, its parameters without values on the pretended device."""
    with torch.device("meta"):
        model = Showo(layout.config).train()
    for module in model.modules():
        for name, value in [*module.named_parameters(recurse=False)]:
            setattr(module, name, nn.Parameter(torch.empty(value.shape, dtype=dtype, device=CUDA)))
    model.checkpointing = True
    return RowLogps(model)


def backward(loss: torch.Tensor) -> dict[torch.Tensor, torch.Tensor]:
    """Gradients of the leaves. torch's own walk over the graph asks for the streams of a real GPU."""
    order: list[Any] = []
    seen = {loss.grad_fn}

    def visit(node: Any) -> None:
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                visit(after)
        order.append(node)

    visit(loss.grad_fn)
    waiting: dict[Any, list[Any]] = {node: [None] * len(node._input_metadata) for node in order}
    waiting[loss.grad_fn][0] = torch.ones_like(loss)
    leaves = {}
    with torch.no_grad():
        for node in reversed(order):
            if hasattr(node, "variable"):
                leaves[node.variable] = waiting[node][0]
                continue
            found = node.apply(*waiting[node]) if hasattr(node, "apply") else node(*waiting[node])
            for value, (after, place) in zip(as_tuple(found), node.next_functions, strict=False):
                if after is not None and value is not None:
                    before = waiting[after][place]
                    waiting[after][place] = value if before is None else before + value
    return leaves


def as_tuple(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize(
    ("clip", "dtype"),
    [(False, torch.float32), (False, torch.bfloat16), (True, torch.bfloat16)],
    ids=str,
)
def test_a_training_step_stays_on_its_device_and_waits_for_log_probs_alone(
    tmp_path: Path, clip: bool, dtype: torch.dtype
) -> None:
    source = source_of(clip, tmp_path)
    samples = source.samples(0)
    batch = source.rows(samples)
    with pretended():
        scorer = on_gpu(layout_of(clip, tmp_path), dtype)
        logp_R = scorer(*batch.rows.to(CUDA))
        assert (logp_R.device, logp_R.dtype) == (CUDA, torch.float32)
        logp_R = logp_R.cpu()
        logps = source.pair_logps(samples, batch, logp_R)
        loss = batch_loss(*logps, CONFIG, 0, *batch.real_losses(logp_R), batch.has(batch.homologous))
        gradients = backward(loss.total.to(CUDA))
        assert gradients.keys() == set(scorer.parameters())
        assert {(one.device, one.dtype) for one in gradients.values()} == {(CUDA, dtype)}


@pytest.mark.parametrize("clip", [False, True], ids=["codes", "clip"])
def test_the_reference_pass_hands_the_host_its_log_probs_and_nothing_else(tmp_path: Path, clip: bool) -> None:
    source = source_of(clip, tmp_path)
    rows = source.rows(source.samples(0)).rows
    with pretended():
        found = on_gpu(layout_of(clip, tmp_path), torch.bfloat16).score(rows)
        assert (found.device.type, found.dtype, found.shape) == ("cpu", torch.float32, (len(rows.ids_RT),))


def test_rows_that_are_looked_for_on_the_device_would_be_noticed(tmp_path: Path) -> None:
    source = source_of(True, tmp_path)
    rows = source.rows(source.samples(0)).rows
    with pretended():
        scorer, moved = on_gpu(layout_of(True, tmp_path), torch.float32), rows.to(CUDA)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            scorer(*moved._replace(seeing=None))
        with pytest.raises(RuntimeError, match="device"):
            scorer(*moved._replace(places_N=rows.places_N))
