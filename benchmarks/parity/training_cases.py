"""Summed log-probs, both DPO terms, their gradients, and the masks of winner and loser.

The reference implementation sums a batch before its sigmoid; its terms are reproduced from our row
log-probs summed the same way. What our training does instead, a term for each pair, is the batch of one.

Legend: R rows, L positions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.parity.folder import EXACT, Comparisons, Golden
from train.data.batch import IGNORE
from train.data.image_mask import mask_from_uniforms
from train.logps.row_logps import RowLogps
from train.losses.loss import dpo_margin
from train.losses.objectives import preference_loss

LOG_PROBS = 1e-4
"""Sums near 100 in float32: a step of the last digit is 8e-6."""
GRADIENTS = 1e-4
SIDES = ("win", "lose")


def _shifted(labels: Tensor) -> Tensor:
    return torch.cat((labels[:, 1:], labels.new_full((len(labels), 1), IGNORE)), 1)


def preference(golden: Golden, arrays: dict[str, Tensor], case: str) -> Comparisons:
    """case3: row log-probs of policy and reference, both terms and the loss, and its gradient."""
    policy, reference = (RowLogps(golden.model(name)) for name in ("policy", "weights"))
    half = golden.texts[case]["batch_t2i"]
    # What the reference implementation scores in an image row: soi, the hidden codes and eoi.
    room = int((arrays["input_ids_win"][:half] == golden.config.vocabulary.soi).int().argmax(1)[0])
    mask_id = golden.config.vocabulary.mask
    sums: dict[tuple[str, str, str], Tensor] = {}
    for side in SIDES:
        ids, mask, labels = (arrays[f"{name}_{side}"] for name in ("input_ids", "mask", "labels"))
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        image = labels[:half].clone()
        image[:, :room] = IGNORE
        hidden = torch.where(ids[:half] == mask_id, labels[:half], IGNORE)
        texts = _shifted(labels[half:])
        for who, scorer in (("policy", policy), ("reference", reference)):
            with torch.set_grad_enabled(who == "policy"):
                found = scorer(ids, mask, positions, torch.cat((image, texts)))
                codes = scorer(ids[:half], mask[:half], positions[:half], hidden)
            name = f"{side}_{who}"
            for what, rows in (
                ("t2i_per_row", found[:half]),
                ("mmu_per_row", found[half:]),
                ("t2i_image_only", codes),
            ):
                stored = arrays[f"derived_{what}_{name}"]
                yield f"log-probs {what} {name}", rows, stored, LOG_PROBS
            sums["t2i", side, who] = found[:half].sum()[None]
            sums["mmu", side, who] = found[half:].sum()[None]
    beta = golden.texts[case]["beta"]
    loss = torch.zeros((), device=golden.device)
    for kind in ("t2i", "mmu"):
        win, lose, reference_win, reference_lose = (
            sums[kind, side, who] for who in ("policy", "reference") for side in SIDES
        )
        margin = dpo_margin(win, lose, reference_win, reference_lose, beta)
        term = preference_loss(margin)
        stored = arrays[f"fixed_delta_{kind}"] * beta
        yield f"margin {kind}", margin[0], stored, LOG_PROBS
        yield f"loss {kind}", term[0], arrays[f"fixed_dpo_loss_{kind}"], LOG_PROBS
        loss = loss + term.sum()
    yield "loss", loss, arrays["fixed_loss"], LOG_PROBS
    loss.backward()
    held = dict(policy.model.named_parameters())
    for name, stored in arrays.items():
        if name.startswith("fixed_grad::"):
            parameter = name.removeprefix("fixed_grad::")
            yield f"gradient {parameter}", held[parameter].grad, stored, GRADIENTS
    norm = torch.nn.utils.get_total_norm([p.grad for p in held.values() if p.grad is not None])
    yield "gradient norm", norm, arrays["fixed_grad_norm_total"], GRADIENTS * 10


def masking(golden: Golden, arrays: dict[str, Tensor]) -> Comparisons:
    """case6: which codes are hidden, the same for winner and loser."""
    shares, ranks = arrays["timesteps"].tolist(), arrays["rand_perm_uniform"].cpu().numpy()
    found = torch.from_numpy(
        np.stack([mask_from_uniforms(share, rank) for share, rank in zip(shares, ranks, strict=True)])
    )
    found = found.to(golden.device)
    for side in SIDES:
        yield f"mask {side}", found, arrays[f"mask_{side}"], EXACT
        tokens = arrays[f"tokens_{side}"]
        ids = torch.where(found, golden.config.vocabulary.mask, tokens)
        yield f"ids {side}", ids, arrays[f"input_ids_{side}"], EXACT
        yield f"labels {side}", torch.where(found, tokens, IGNORE), arrays[f"labels_{side}"], EXACT
