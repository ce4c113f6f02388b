"""Log-probs of chosen tokens, forward and backward: ours against all other ways, as `speed.logps`."""

from __future__ import annotations

import msgspec

from benchmarks.gpu.place import Found, Measure, Place, ratios
from benchmarks.speed import logps
from benchmarks.speed.logps_sides import LogpsProblem, SideName, peak_memory

RIVALS: tuple[SideName, ...] = ("liger", "cut_cross_entropy")
SIDES: tuple[SideName, ...] = ("ours", "eager", "chunked", "log_softmax", *RIVALS)
SMALL = LogpsProblem(tokens=512, hidden=32, vocabulary=300)
SMALL_HEAD = LogpsProblem(tokens=1024, hidden=512, vocabulary=8192, dtype="bfloat16")
ERROR = "ours over eager, error against float64"
FASTER = "fastest of Liger and cut-cross-entropy over ours, time (target 1)"
SMALLER = "smallest of Liger and cut-cross-entropy over ours, memory (target 1)"


def sides(place: Place, full: LogpsProblem) -> Found:
    """Milliseconds, peak memory beyond inputs and gradients, and the error of ours."""
    device = "cuda" if place.device.type == "cuda" else "cpu"
    problem = msgspec.structs.replace(place.pick(full, SMALL), dtype=full.dtype, device=device)
    rounds, warmups, like = place.pick((10, 2, logps.ERRORS), (1, 0, SMALL))
    rows = logps.compare(problem, SIDES, rounds, warmups)
    seconds = {side: row.seconds for side, row in zip(SIDES, rows, strict=True) if row.seconds}
    peaks = {side: peak_memory(side, problem) for side in seconds}
    figures: dict[str, list[float] | str] = {}
    for side, row in zip(SIDES, rows, strict=True):
        figures[f"{side}, ms"] = [1000 * one for one in row.seconds] or row.reason
        figures[f"{side}, peak MiB"] = [peaks[side]] if side in peaks else row.reason
    errors = {one.side: one.figures for one in logps.errors(logps.smaller(problem, like))}
    figures[ERROR] = [max(errors["ours"][name] / errors["eager"][name] for name in errors["ours"])]
    figures |= dict.fromkeys((FASTER, SMALLER), "neither Liger nor cut-cross-entropy runs here")
    if rivals := [side for side in RIVALS if side in seconds]:
        fastest = [min(one) for one in zip(*(seconds[side] for side in rivals), strict=True)]
        figures[FASTER] = ratios(fastest, seconds["ours"])
        figures[SMALLER] = [min(peaks[side] for side in rivals) / peaks["ours"]]
    what = f"{rows[0].work}, {problem.dtype}, forward and backward"
    return Found(what, figures)


MEASURES: dict[str, Measure] = {
    "Show-o's head, bfloat16": lambda place: sides(place, LogpsProblem(dtype="bfloat16")),
    "Show-o's head, float32": lambda place: sides(place, LogpsProblem()),
    "a small head, bfloat16": lambda place: sides(place, SMALL_HEAD),
}
