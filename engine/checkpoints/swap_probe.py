"""What a trainer's model gives for fixed captions: a served copy of its weights must give the same.

A checkpoint's `probes.json` is written from the policy in the trainer's memory, before its weights are
gathered, stored and packed for serving. Whatever goes wrong on that way shows in the log-probs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from engine.errors import UNREADABLE, CheckpointError
from engine.models.showo_config import ShowoConfig
from engine.records import Record

PROBES, FORMER = "probes.json", "canary.json"
"""The file of a checkpoint, and the name that it had once."""
COUNT = 2
TOKENS = 4
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest difference of a token's log-prob, by the coarser arithmetic of the two sides."""


class Probe(Record):
    """One fixed caption of one fixed image."""

    codes: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Without the end token, whose log-prob counts too."""
    logp: float
    """Sum over the tokens and the end."""


class ProbeSet(Record):
    """The content of `probes.json`."""

    dtype: str
    """The trainer's arithmetic."""
    probes: tuple[Probe, ...]


def fixed_captions(config: ShowoConfig) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(codes, token ids) of each probe: pseudo-random, the same for all checkpoints of a configuration."""
    rng = np.random.default_rng(0)
    words = config.vocabulary
    texts = [one for one in range(min(config.text_vocab_size, 1000)) if one != words.eos]
    return [
        (
            tuple(rng.integers(0, words.codebook_size, config.num_image_tokens).tolist()),
            tuple(rng.choice(texts, TOKENS).tolist()),
        )
        for _ in range(COUNT)
    ]


def read_probes(checkpoint: Path) -> ProbeSet | None:
    """A checkpoint's probes; None where whoever wrote it left none.

    Raises:
        CheckpointError: the file is damaged, or of an earlier version.
    """
    path = checkpoint / PROBES
    if (old := checkpoint / FORMER).is_file():
        raise CheckpointError(f"{old}: of an earlier version of Hermes; remove it to swap without its probes")
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProbeSet)
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; remove it to swap without it") from error


def check_probe_logps(probes: ProbeSet, served: Sequence[float], precision: str, where: Path) -> None:
    """Compares what is served, a summed log-prob each, with what the trainer's model gave.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    tolerance = max(TOLERANCES[probes.dtype], TOLERANCES[precision]) * (TOKENS + 1)
    for probe, found in zip(probes.probes, served, strict=True):
        if not abs(probe.logp - found) <= tolerance:
            raise CheckpointError(
                f"{where}: the served weights give a fixed caption the log-prob {found:.4f}, the trainer's "
                f"model gave {probe.logp:.4f}; the weights from before still serve"
            )
