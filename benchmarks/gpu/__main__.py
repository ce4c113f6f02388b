"""The command: says what is missing, chooses stages, runs several in a process each, prints the table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("torch", "msgspec", "numpy", "safetensors", "tokenizers", "transformers")
GRACE = 60.0
"""Seconds that a stage's last measurement may take beyond the stage's own."""


def main() -> int:
    """Exit status 1 where something failed, or there is no GPU."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"not run: {', '.join(missing)} missing; bring the wheel and run this again", file=sys.stderr)
        return 1
    from benchmarks import gpu
    from benchmarks.gpu import check
    from benchmarks.gpu.place import Place
    from benchmarks.speed.bench import ROOT, plain_parser
    from engine.devices import compute_device
    from engine.errors import HermesError

    parser = plain_parser(gpu.__doc__)
    parser.add_argument("--stage", nargs="+", choices=check.STAGES, default=check.STAGES)
    parser.add_argument("--again", action="store_true", help="also what was measured already")
    parser.add_argument("--dry", action="store_true", help="smallest shapes; needs --to")
    parser.add_argument("--golden", type=Path, help="folder of recorded arrays, for parity")
    parser.add_argument("--to", type=Path, help="folder of the JSON files, by default benchmarks/results")
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    if given.dry and given.to is None:
        parser.error("--dry needs --to: its figures are no results")
    folder = given.to or ROOT / "benchmarks" / "results"
    if given.table:
        print(check.table(folder, given.stage))
        return 0
    try:
        device = compute_device()
    except HermesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if device.type == "cpu" and not given.dry:
        print("error: no GPU here; python -m benchmarks.gpu --dry --to DIR runs on a CPU", file=sys.stderr)
        return 1
    if len(given.stage) == 1:
        place = Place(device, given.dry, given.golden)
        check.run(given.stage[0], place, check.setting_of(device, given.dry), folder, given.again)
    else:
        for stage in given.stage:
            run_apart(stage, check.SECONDS + GRACE)
    print(check.table(folder, given.stage))
    return int(any(check.failed(check.stored(folder, stage)) for stage in given.stage))


def run_apart(stage: str, limit: float) -> None:
    """This very command for one stage, in a process that is stopped, with its own, where it hangs."""
    command = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], "--stage", stage]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0)
    try:
        status = process.wait(limit)
        ended = "" if status in (0, 1) else f"ended with status {status}"
    except subprocess.TimeoutExpired:
        ended = f"stopped after {limit:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if ended:
        print(f"{stage}: {ended}; run it again, and it goes on", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
