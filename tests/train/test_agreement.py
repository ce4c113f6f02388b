"""The training loss against what the reference implementation recorded, from ids and weights to gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.parity.folder import Golden
from train.config import TrainConfig
from train.data.batch import IGNORE, Layout
from train.logps.row_logps import RowLogps
from train.losses.loss import BatchLoss, PairLogps, batch_loss
from train.losses.objectives import preference_loss

CASE = "case3a_dpo_b1"
"""One preference: the reference implementation sums a batch before its sigmoid, which is right for one."""
TOLERANCE = 5e-5
SIDES = ("win", "lose")


def official_rows(arrays: dict[str, Tensor], side: str, soi: int) -> tuple[Tensor, ...]:
    """Ids, mask, positions, and labels as the official loss takes them: soi and eoi of images included."""
    ids, mask, labels = (arrays[f"{name}_{side}"] for name in ("input_ids", "mask", "labels"))
    image = labels[:1].clone()
    image[:, : int((ids[0] == soi).int().argmax())] = IGNORE
    caption = torch.cat((labels[1:, 1:], torch.full((1, 1), IGNORE)), 1)
    return ids, mask, torch.arange(ids.shape[1]).expand_as(ids), torch.cat((image, caption))


def official_loss(golden: Path, config: TrainConfig) -> tuple[RowLogps, BatchLoss, dict[str, Tensor]]:
    """Our loss of the recorded preference, and the policy whose log-probs it follows from."""
    folder = Golden(golden)
    arrays = folder.case(CASE)
    assert arrays is not None
    policy, frozen = RowLogps(folder.model("policy")), RowLogps(folder.model("weights"))
    rows = [official_rows(arrays, side, folder.config.vocabulary.soi) for side in SIDES]
    found = [policy(*one) for one in rows]
    with torch.no_grad():
        reference = [frozen(*one) for one in rows]
    has = torch.ones(1, dtype=torch.bool)
    images, captions = (
        PairLogps(found[0][i, None], found[1][i, None], reference[0][i, None], reference[1][i, None], has)
        for i in (0, 1)
    )
    return policy, batch_loss(captions, images, config), arrays


def test_the_loss_of_one_preference_is_the_official_loss_term_by_term(golden: Path) -> None:
    beta = Golden(golden).texts[CASE]["beta"]
    policy, loss, arrays = official_loss(golden, TrainConfig(beta=beta))
    for margin_P, kind in ((loss.margins.captions_P, "mmu"), (loss.margins.images_P, "t2i")):
        assert margin_P.item() == pytest.approx(beta * float(arrays[f"fixed_delta_{kind}"]), abs=TOLERANCE)
        wanted = float(arrays[f"fixed_dpo_loss_{kind}"])
        assert preference_loss(margin_P).item() == pytest.approx(wanted, abs=TOLERANCE)
    assert loss.total.item() == pytest.approx(float(arrays["fixed_loss"]), abs=TOLERANCE)
    loss.total.backward()
    held = dict(policy.model.named_parameters())
    recorded = [name for name in arrays if name.startswith("fixed_grad::")]
    assert len(recorded) == 4
    for name in recorded:
        found = held[name.removeprefix("fixed_grad::")].grad
        torch.testing.assert_close(found, arrays[name], atol=1e-4, rtol=1e-3)
    norm = torch.nn.utils.get_total_norm([p.grad for p in held.values() if p.grad is not None])
    assert norm.item() == pytest.approx(float(arrays["fixed_grad_norm_total"]), rel=1e-4)


@pytest.mark.parametrize(("objective", "kind"), [("und", "mmu"), ("gen", "t2i")])
def test_one_sided_objectives_are_the_official_terms(golden: Path, objective: str, kind: str) -> None:
    beta = Golden(golden).texts[CASE]["beta"]
    _, loss, arrays = official_loss(golden, TrainConfig(beta=beta, objective=objective))
    assert loss.total.item() == pytest.approx(float(arrays[f"fixed_dpo_loss_{kind}"]), abs=TOLERANCE)


@pytest.mark.parametrize("case", [CASE, "case3b_dpo_b2"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("file", "who"), [("weights", "reference"), ("policy", "policy")])
def test_image_rows_made_from_text_codes_and_mask_have_the_recorded_log_probs(
    golden: Path, case: str, side: str, file: str, who: str
) -> None:
    """Unpadded rows of our own layout; the recorded ones are padded on the left to the longest text."""
    folder = Golden(golden)
    arrays, texts = folder.case(case), folder.texts[case]
    assert arrays is not None
    folder.config.max_text_len = texts["max_seq_length"]
    layout = Layout(folder.config, folder.tokenizer())
    rows = []
    for i, pair in enumerate(texts["pairs"]):
        ids = arrays[f"input_ids_{side}"][i].tolist()
        start = ids.index(layout.words.soi) + 1
        codes = arrays[f"image_codes_{side}"][i].tolist()
        masked = np.array(ids[start : start + len(codes)]) == layout.words.mask
        row = layout.image_row(pair["caption"], codes, masked)
        assert ids[row.first : row.first + len(row.ids)] == row.ids
        rows.append(row)
    found = RowLogps(folder.model(file)).score(layout.stack(rows))
    wanted = arrays[f"derived_t2i_image_only_{side}_{who}"]
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)


def test_an_unconditional_row_is_the_recorded_prompt_of_guidance(golden: Path) -> None:
    folder = Golden(golden)
    arrays = folder.case("case4b_gen_g3")
    assert arrays is not None
    prompt = arrays["uncond_prompt_ids"][0].tolist()
    tokens = folder.config.num_image_tokens
    folder.config.max_text_len = len(prompt) - tokens - 3
    layout = Layout(folder.config, folder.tokenizer())
    row = layout.image_row("", [0] * tokens, np.ones(tokens, bool))
    assert [layout.words.pad] * row.first + row.ids == prompt
