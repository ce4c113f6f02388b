"""Builds `phi.cpp` with this machine's C++ compiler and loads it; the library is kept for later processes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("phi.cpp")
FLAGS = ("-O3", "-funroll-loops", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp")
COMPILERS = ("c++", "g++", "clang++")
DTYPES = ("float32", "bfloat16")
"""How the numbers may be stored."""
SECONDS = 120
"""A compiler that takes longer is given up."""

_POINTER, _SIZE, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES = {
    "hermes_gelu": (_POINTER, _SIZE, _INT),
    "hermes_heads": (
        *(_POINTER,) * 5,
        _FLOAT,
        *(_POINTER,) * 2,
        *(_SIZE,) * 5,
        *(_POINTER,) * 2,
        _INT,
    ),
    "hermes_continuation_attention": (
        *(_POINTER,) * 3,
        _SIZE,
        *(_POINTER,) * 9,
        *(_SIZE,) * 7,
        _FLOAT,
        _POINTER,
        _INT,
    ),
}


def eager() -> bool:
    """Whether the user wants no kernels of ours: HERMES_KERNELS is `eager`."""
    return os.environ.get("HERMES_KERNELS") == "eager"


@cache
def native() -> ctypes.CDLL | None:
    """The kernels; none where the user wants none, or no compiler builds them."""
    if eager():
        return None
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        return None
    try:
        library = ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None
    for name, arguments in _SIGNATURES.items():
        for dtype in DTYPES:
            function = getattr(library, f"{name}_{dtype}")
            function.argtypes, function.restype = arguments, None
    return library


def _built(compiler: str) -> Path:
    """The library of this source, compiler and processor, built where it is not there yet."""
    folder = _folder()
    whole = [SOURCE.read_text(), compiler, *FLAGS, platform.machine(), _processor()]
    digest = hashlib.blake2b("\0".join(whole).encode(), digest_size=10).hexdigest()
    # `-march=native` code of another processor would end the process: its kind is part of the name.
    library = folder / f"phi-{digest}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / library.name
            subprocess.run(
                [compiler, *FLAGS, "-o", str(made), str(SOURCE)],
                check=True,
                capture_output=True,
                timeout=SECONDS,
            )
            # Processes that build at the same time replace each other's file by the same one.
            made.replace(library)
    return library


def _folder() -> Path:
    """A folder that nobody else can write to: what lies there is loaded and run."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hermes"
    try:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = kept.stat()
        if found.st_uid == os.getuid() and not found.st_mode & 0o022 and os.access(kept, os.W_OK):
            return kept
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="hermes-"))


def _processor() -> str:
    """What the processor can do, as `-march=native` sees it."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in info.read_text().splitlines() if line.startswith(wanted)}))
