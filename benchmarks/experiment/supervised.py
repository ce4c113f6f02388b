"""Runs one command on one core, and ends it with all its processes when whoever started this ends.

`python -m benchmarks.experiment.supervised CORE COMMAND...`, in a session of its own, with a pipe as standard
input that its parent holds open: however the parent ends, the pipe closes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _follow() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Ends with the command's status."""
    core, *command = sys.argv[1:]
    if os.getpgrp() != os.getpid():
        sys.exit("supervised: not the leader of its process group, so it could not end it")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    threading.Thread(target=_follow, daemon=True).start()
    sys.exit(subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode)


if __name__ == "__main__":
    main()
