"""Says what is missing before anything is imported that needs it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = ("torch", "msgspec", "numpy", "safetensors", "tokenizers", "transformers")

if __name__ == "__main__":
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"not run: {', '.join(missing)} missing; bring the wheel and run this again", file=sys.stderr)
        sys.exit(1)
    from benchmarks.gpu.command import main

    sys.exit(main())
