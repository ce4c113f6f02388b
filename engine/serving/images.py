"""Images from texts: what `Engine.generate_images` does.

Show-o generates them by mask-predict: all codes of an image are masked at first, and a fixed number of steps
fills them in (`samplers.mask_predict`). That runs in vLLM's worker, on the weights that serve.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import EngineError
from engine.records import ImageSettings, SampledImage
from engine.samplers.mask_predict_rule import check_schedule
from engine.samplers.seeds import sample_seed
from engine.serving.server import Server


def sample_images(
    server: Server,
    texts: Sequence[Sequence[int]],
    n: int,
    keys: Sequence[str],
    seed: int,
    settings: ImageSettings,
    batch: int,
) -> list[list[SampledImage]]:
    """n images of every prompt, given as ids; `batch` images share a forward pass.

    Raises:
        EngineError: there are no steps, the schedule is not known, or memory ran out.
    """
    if settings.steps < 1:
        raise EngineError(f"generating images takes at least 1 step, not {settings.steps}")
    check_schedule(settings.schedule)
    # The kind is an early name: another one would change every image.
    seeds = [[sample_seed(seed, key, "paint", i) for i in range(n)] for key in keys]
    sampled = server.rpc("generating images failed", "hermes_generate_images", texts, seeds, settings, batch)
    return [
        [SampledImage(codes=tuple(codes), seed=one) for codes, one in zip(*rows, strict=True)]
        for rows in zip(sampled, seeds, strict=True)
    ]
