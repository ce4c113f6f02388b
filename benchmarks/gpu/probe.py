"""An engine in a process of its own: vLLM chooses kernels and graphs when it is imported and started."""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.gpu.place import Place
from benchmarks.speed import workload
from benchmarks.speed.bench import child, in_turns
from benchmarks.speed.model_sizes import make
from engine.records import ImageSettings
from engine.serving.arguments import showo_arguments
from engine.serving.engine import Engine

CHECKSUM = "checksum of captions"


def random_checkpoint(place: Place, folder: Path, seed: int = 0) -> tuple[Path, str]:
    """A checkpoint with the released sizes, and the type that it serves in."""
    shape, dtype = place.pick(("showo-1.3b", "bfloat16"), ("tiny", "float32"))
    return make(folder / str(seed), shape, getattr(torch, dtype), device=place.device, seed=seed), dtype


def asked(place: Place, deterministic: bool = True, graphs: bool = True) -> dict[str, list[float]]:
    """What an engine gives that is alone on the device: rates, bits, and a checksum."""
    import_module("vllm")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, dtype = random_checkpoint(place, Path(folder))
        place.clear()
        given = json.dumps((place.dry, str(checkpoint), dtype, deterministic, graphs))
        found: dict[str, list[float]] = json.loads(child("benchmarks.gpu.probe", given).splitlines()[-1])
    return found


def without_graphs() -> None:
    """Has vLLM launch every kernel of a decoding step, for which Hermes has no setting."""

    def arguments(*places: Any, **named: Any) -> dict[str, Any]:
        eager = {"mode": 0, "cudagraph_mode": "NONE"}
        return {**showo_arguments(*places, **named), "compilation_config": eager}

    patch("engine.serving.launch.showo_arguments", arguments).start()


def answered(dry: bool, checkpoint: str, dtype: str, deterministic: bool, graphs: bool) -> Mapping[str, Any]:
    """Opens the engine and times it; also what one image or prompt alone gives."""
    if not graphs:
        without_graphs()
    shown, n, longest, prompts, each, steps, rounds = (2,) * 7 if dry else (32, 8, 40, 4, 4, 18, 3)
    plan, settings = workload.ragged_plan(n, longest, 0), ImageSettings(steps=steps, guidance=5.0)
    room = 0.125 if dry else 0.0
    with Engine(Path(checkpoint), dtype=dtype, kv_cache_gib=room, deterministic=deterministic) as engine:

        def captions(number: int, count: int = shown) -> list[tuple[int, ...]]:
            seen = workload.images(engine.config, shown, number)[:count]
            found = engine.caption(seen, [str(one) for one in range(count)], number, plan)
            return [tuple(one.token_ids) for row in found for one in row]

        def generated(number: int, count: int = prompts) -> list[tuple[int, ...]]:
            texts, keys = workload.prompts(prompts, number)[:count], [str(one) for one in range(count)]
            found = engine.generate_images(texts, each, keys, number, settings)
            return [one.codes for row in found for one in row]

        works = {"captions": captions, "images": generated}
        whole = {name: work(0) for name, work in works.items()}
        said = {CHECKSUM: [float(zlib.crc32(repr(whole["captions"]).encode()))]}
        for name, seconds in in_turns(works, rounds).items():
            said[f"{name} a second"] = [len(whole[name]) / one for one in seconds]
            alone = works[name](0, 1)
            unlike = sum(a != b for a, b in zip(alone, whole[name], strict=False)) / len(alone)
            said[f"share of {name} unlike in another batch"] = [unlike]
    return said


if __name__ == "__main__":
    print(json.dumps(answered(*json.loads(sys.argv[1]))))
