"""vLLM's own OpenAI server in a process of its own, with one small model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "served"
SIZES = (
    "--served-model-name", NAME, "--host", "127.0.0.1", "--enforce-eager", "--dtype", "float32",
    "--max-num-seqs", "8", "--kv-cache-memory-bytes", str(32 << 20),
)  # fmt: skip
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextmanager
def vllm_server(folder: Path, log: Path, *arguments: str) -> Iterator[str]:
    """Base of a server of a model's folder, which ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [*command, "--port", str(port), *SIZES, *arguments],
            env=os.environ | ENVIRONMENT,
            stdout=stream,
            stderr=stream,
        )
    try:
        deadline = time.monotonic() + 300
        while not _healthy(port):
            assert server.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
