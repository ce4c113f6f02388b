"""Who samples captions, and answers that no choice settles: our own sampler, or vLLM's scheduler."""

from __future__ import annotations

import torch

from engine.errors import EngineError

SAMPLERS = ("branched", "paged")
"""branched: an image's candidates go on from one prefix (`engine.samplers.continuations`); paged: each is a
request to vLLM, which shares cached prefixes. The draws of a seed differ between the two."""


def sampler_for(setting: str, device: torch.device) -> str:
    """The sampler that a setting names; `auto` is branched on a CPU and paged on a GPU.

    Raises:
        EngineError: the setting is not known, or names the branched sampler on a GPU.
    """
    if setting == "auto":
        return "branched" if device.type == "cpu" else "paged"
    if setting not in SAMPLERS:
        raise EngineError(f"engine.sampler is {setting!r}; take auto, {' or '.join(SAMPLERS)}")
    if setting == "branched" and device.type != "cpu":
        raise EngineError("engine.sampler is branched, which is for CPUs; take auto or paged on a GPU")
    return setting
