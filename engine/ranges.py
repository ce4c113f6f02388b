"""What settings of sampling must be: known without torch, so that a command refuses others at once."""

from __future__ import annotations

import re

from engine.records import CaptionSettings, ImageSettings

POWER = re.compile(r"pow(\d+(?:\.\d+)?)")
"""The schedules of `ImageSettings` that raise a share to a power."""


def caption_problems(one: CaptionSettings) -> list[str]:
    """What of some settings is out of range, each as `top_p is 2.0, it must be ...`."""
    return _problems(
        one,
        temperature=(0 <= one.temperature < float("inf"), "0 or more"),
        top_k=(one.top_k >= 0, "0 (all) or more"),
        top_p=(0 < one.top_p <= 1, "above 0 and at most 1"),
        repetition_penalty=(0 < one.repetition_penalty < float("inf"), "above 0"),
        max_tokens=(one.max_tokens >= 1, "at least 1"),
    )


def image_problems(one: ImageSettings) -> list[str]:
    """The same of how images are sampled."""
    known = one.schedule in ("cosine", "linear", "sigmoid") or POWER.fullmatch(one.schedule) is not None
    return _problems(
        one,
        steps=(one.steps >= 1, "at least 1"),
        guidance=(0 <= one.guidance < float("inf"), "0 or more"),
        temperature=(0 <= one.temperature < float("inf"), "0 or more"),
        schedule=(known, "cosine, linear, pow2 or sigmoid"),
    )


def _problems(one: CaptionSettings | ImageSettings, **ranges: tuple[bool, str]) -> list[str]:
    return [
        f"{name} is {getattr(one, name)}, it must be {range_}"
        for name, (fine, range_) in ranges.items()
        if not fine
    ]
