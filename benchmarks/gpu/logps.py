"""Log-probs of chosen tokens, forward and backward: ours against all other ways, as
`benchmarks.speed.logps`."""

from __future__ import annotations

import msgspec

from benchmarks.gpu.place import Found, Measure, Place, ratios
from benchmarks.speed import logps, logps_memory
from benchmarks.speed.logps_sides import Size

RIVALS = ("liger", "cut_cross_entropy")
SIDES = ("ours", "products", "eager", "chunked", "log_softmax", *RIVALS)
SMALL = Size(tokens=512, hidden=32, vocabulary=300)
ERROR = "ours over eager, error against float64"
FASTER = "fastest of Liger and cut-cross-entropy over ours, time (target 1)"
SMALLER = "smallest of Liger and cut-cross-entropy over ours, memory (target 1)"


def sides(place: Place, size: Size) -> Found:
    """Milliseconds, peak memory beyond inputs and gradients, and the error of ours."""
    dtype, device = size.dtype, place.device.type
    size = msgspec.structs.replace(place.pick(size, SMALL), dtype=dtype, device=device)
    rounds, warmups, errors_size = place.pick((10, 2, logps.ERRORS), (1, 0, SMALL))
    report = logps.measure(size, SIDES, rounds, warmups, with_memory=False, errors_size=errors_size)
    figures: dict[str, list[float] | str] = {}
    seconds = {row.side: row.seconds for row in report.rows if row.seconds}
    peaks = {side: logps_memory.measure(side, size).peak / 2**20 for side in seconds if side != "products"}
    for row in report.rows:
        figures[f"{row.side}, ms"] = [1000 * one for one in row.seconds] or row.reason
        if row.side != "products":
            figures[f"{row.side}, peak MiB"] = [peaks[row.side]] if row.side in peaks else row.reason
    errors = {one.side: msgspec.structs.astuple(one)[1:] for one in report.errors}
    figures[ERROR] = [max(a / b for a, b in zip(errors["ours"], errors["eager"], strict=True))]
    figures |= dict.fromkeys((FASTER, SMALLER), "neither Liger nor cut-cross-entropy runs here")
    if rivals := [side for side in RIVALS if side in seconds]:
        fastest = [min(one) for one in zip(*(seconds[side] for side in rivals), strict=True)]
        figures[FASTER] = ratios(fastest, seconds["ours"])
        figures[SMALLER] = [min(peaks[side] for side in rivals) / peaks["ours"]]
    what = f"{size.tokens:,} x {size.hidden:,} x {size.vocabulary:,}, {dtype}, forward and backward"
    return Found(what, figures)


MEASURES: dict[str, Measure] = {
    "Show-o's head, bfloat16": lambda place: sides(place, Size(dtype="bfloat16")),
    "Show-o's head, float32": lambda place: sides(place, Size()),
    "a small head, bfloat16": lambda place: sides(
        place, msgspec.structs.replace(logps.QUICK, dtype="bfloat16")
    ),
}
