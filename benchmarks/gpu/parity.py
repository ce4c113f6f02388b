"""The device against arrays that the reference implementation gave, and kernels against their twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from benchmarks.gpu.place import Found, Measure, NotRunError, Place
from benchmarks.parity.__main__ import CASES, compare
from benchmarks.parity.folder import Golden
from benchmarks.speed.model_sizes import MODEL_SIZES
from engine.kernels.phi import heads, tanh_gelu
from engine.models.phi import rotary_tables


def golden(place: Place) -> Found:
    """Every recorded case in float32; what vLLM serves is left out."""
    if place.golden is None:
        raise NotRunError("no recorded arrays; name their folder with --golden")
    differences, skipped = compare(Golden(place.golden, place.device), served=False)
    off = [f"{one.case} {one.what}" for one in differences if not one.passes]
    within = [one.largest / one.tolerance for one in differences if one.tolerance]
    cases = len(CASES) - len({*CASES} & {*skipped})
    what = f"{cases} of {len(CASES)} cases, float32{'; beyond: ' if off else ''}{', '.join(off[:5])}"
    figures: dict[str, list[float]] = {
        "comparisons": [len(differences)],
        "comparisons beyond their tolerance": [len(off)],
        "largest difference over its tolerance": [max(within, default=0.0)],
    }
    return Found(what, figures)


def twins(place: Place) -> Found:
    """Each kernel in bfloat16 on the rows of a batch of images; with gradients on, its eager twin runs."""
    shape = MODEL_SIZES[place.pick("showo-1.3b", "tiny")]
    batch, rows, size = place.pick(32, 2), shape.side**2 + 2, shape.hidden // shape.heads
    dice = torch.Generator(place.device).manual_seed(0)
    inner, qkv = (
        torch.randn(batch, rows, *sizes, generator=dice, device=place.device).bfloat16()
        for sizes in ((shape.mlp,), (3, shape.heads, size))
    )
    cos, sin = rotary_tables(torch.arange(rows, device=place.device), size // 2, 10000.0)
    norms = {
        dtype: nn.LayerNorm(size, device=place.device, dtype=dtype).requires_grad_(False)
        for dtype in (torch.bfloat16, torch.float64)
    }
    works: dict[str, tuple[Callable[[Tensor], object], Tensor]] = {
        "tanh_gelu": (tanh_gelu, inner),
        "heads": (lambda x: heads(x, norms[x.dtype], norms[x.dtype], cos, sin), qkv),
    }
    figures = {}
    for name, (work, given) in works.items():
        exact = work(given.double())
        with torch.no_grad():
            ours = work(given.clone())
        error = _error(ours, exact) / _error(work(given), exact)
        figures[f"{name}, ours over eager, error against float64"] = [error]
        seconds = {}
        for side, gradients in (("ours", False), ("eager", True)):
            timer = Timer("work(given)", globals={"work": work, "given": given.clone()})
            with torch.set_grad_enabled(gradients):
                seconds[side] = timer.blocked_autorange(min_run_time=place.pick(0.5, 0.01)).median
        figures[f"{name}, eager over ours, time"] = [seconds["eager"] / seconds["ours"]]
    return Found(f"{batch * rows:,} rows, bfloat16", figures)


def _error(found: Any, exact: Any) -> float:
    """The largest difference over the largest value, of a tensor or of each of several."""
    pairs = zip(found, exact, strict=True) if isinstance(found, tuple) else [(found, exact)]
    return max(float((one.double() - other).abs().max() / other.abs().max()) for one, other in pairs)


MEASURES: dict[str, Measure] = {"recorded arrays": golden, "kernels": twins}
