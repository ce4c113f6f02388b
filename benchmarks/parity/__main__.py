"""`python -m benchmarks.parity [--golden DIR]`: every recorded case against this implementation.

DIR holds config.json (sizes), cases.json (texts and settings), safetensors weights and one npz a case. A case
that is not there is skipped and named. Exit status 1 if a tolerance is exceeded or no case was there.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from benchmarks.parity import model_cases, sampler_cases, training_cases
from benchmarks.parity.folder import EXACT, Comparisons, Golden
from benchmarks.speed.bench import plain_parser
from engine.errors import HermesError
from engine.files.atomic import write_file
from engine.records import Record

CASES: dict[str, Callable[[Golden, dict[str, Tensor]], Comparisons]] = {
    "case1_mmu": model_cases.captioning,
    "case2_t2i": model_cases.text_to_image,
    "case3a_dpo_b1": lambda golden, arrays: training_cases.preference(golden, arrays, "case3a_dpo_b1"),
    "case3b_dpo_b2": lambda golden, arrays: training_cases.preference(golden, arrays, "case3b_dpo_b2"),
    "case4a_gen_g0": lambda golden, arrays: sampler_cases.sampling(golden, arrays, "case4a_gen_g0"),
    "case4b_gen_g3": lambda golden, arrays: sampler_cases.sampling(golden, arrays, "case4b_gen_g3"),
    "case5_mmu_generate": model_cases.decoding,
    "case6_mask": training_cases.masking,
    "case7_magvit": sampler_cases.image_tokenizer,
}
SERVED = "served by vLLM"


class Difference(Record):
    """The largest difference between stored values and ours."""

    case: str
    what: str
    largest: float
    """Absolute; for ids and masks the number of places that differ."""
    tolerance: float

    @property
    def passes(self) -> bool:
        """Whether it is within its tolerance; NaN is not."""
        return self.largest <= self.tolerance


def difference(case: str, what: str, found: object, stored: object, tolerance: float) -> Difference:
    """Compares; a shape that differs is an infinite difference."""
    ours, theirs = _tensor(found), _tensor(stored)
    if ours.shape != theirs.shape:
        largest = float("inf")
    elif tolerance == EXACT:
        largest = float((ours != theirs).sum())
    else:
        largest = (ours.double() - theirs.double()).abs().max().item() if ours.numel() else 0.0
    return Difference(case=case, what=what, largest=largest, tolerance=tolerance)


def _tensor(values: object) -> Tensor:
    return values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))


def compare(golden: Golden, served: bool) -> tuple[list[Difference], list[str]]:
    """All differences, and the cases that the folder does not hold."""
    found: list[Difference] = []
    skipped: list[str] = []
    for name, run in CASES.items():
        arrays = golden.case(name)
        if arrays is None:
            skipped.append(name)
            continue
        found += (difference(name, *one) for one in run(golden, arrays))
    first, fifth = golden.case("case1_mmu"), golden.case("case5_mmu_generate")
    if served and first is not None and fifth is not None:
        from benchmarks.parity.served_cases import serving

        with tempfile.TemporaryDirectory() as folder:
            found += (difference(SERVED, *one) for one in serving(golden, first, fifth, Path(folder)))
    else:
        skipped.append(SERVED)
    return found, skipped


def table(found: list[Difference]) -> str:
    """One line a comparison."""
    width = max(len(one.what) for one in found)
    return "\n".join(
        f"{one.case:<20}{one.what:<{width}}  {one.largest:>10.3g}  {one.tolerance:>8.1g}  "
        f"{'ok' if one.passes else 'EXCEEDED'}"
        for one in found
    )


def main() -> int:
    """Runs the comparison; returns the exit status."""
    parser = plain_parser(__doc__)
    parser.add_argument("--golden", type=Path, default=Path("tests/golden"), help="default: tests/golden")
    parser.add_argument("--no-serving", action="store_true", help="leave vLLM out")
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    torch.manual_seed(0)
    try:
        found, skipped = compare(Golden(options.golden), not options.no_serving)
    except HermesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in skipped:
        print(f"skipped: {name} (not in {options.golden}, or left out)")
    if not found:
        print(f"error: {options.golden}: no case was compared", file=sys.stderr)
        return 1
    print(table(found))
    if options.json:
        write_file(options.json, msgspec.json.format(msgspec.json.encode(found)))
    return 0 if all(one.passes for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
