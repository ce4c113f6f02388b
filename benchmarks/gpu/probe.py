"""An engine in a process of its own: vLLM chooses kernels and graphs when it is imported and started."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import workload
from benchmarks.gpu.place import Place, child
from benchmarks.timing import in_turns
from engine import vllm_launch
from engine.records import PaintSettings, Record
from engine.vllm_engine import Engine


class Ask(Record):
    """What the engine is opened with, and how much it does in a round."""

    checkpoint: str
    dtype: str
    kv_cache_gib: float
    images: int
    n: int
    longest: int
    prompts: int
    each: int
    """Paintings of a prompt."""
    steps: int
    rounds: int
    deterministic: bool = True
    graphs: bool = True


class Said(Record):
    """Rates of every round; shares of samples that another batch gives other tokens."""

    captions: list[float]
    paintings: list[float]
    captions_unlike: float
    paintings_unlike: float
    digest: str
    """Of the captions of one round."""


def asked(place: Place, checkpoint: Path, dtype: str, **given: Any) -> Said:
    """What an engine on this checkpoint says, alone on the device."""
    images, n, longest, prompts, each, steps, rounds = place.pick((32, 8, 40, 4, 4, 18, 3), (2,) * 6 + (1,))
    ask = Ask(
        checkpoint=str(checkpoint),
        dtype=dtype,
        kv_cache_gib=place.pick(0.0, 0.125),
        images=images,
        n=n,
        longest=longest,
        prompts=prompts,
        each=each,
        steps=steps,
        rounds=rounds,
    )
    ask = msgspec.structs.replace(ask, **given)
    said = child("benchmarks.gpu.probe", msgspec.json.encode(ask).decode())
    return msgspec.json.decode(said.splitlines()[-1], type=Said)


def without_graphs() -> None:
    """Has vLLM launch every kernel of a decoding step, for which Hermes has no setting."""
    given = vllm_launch.showo_arguments

    def arguments(*places: Any, **named: Any) -> dict[str, Any]:
        eager = {"mode": 0, "cudagraph_mode": "NONE"}
        return {**given(*places, **named), "compilation_config": eager}

    vllm_launch.showo_arguments = arguments


def answered(ask: Ask) -> Said:
    """Opens the engine and times it."""
    if not ask.graphs:
        without_graphs()
    plan = workload.ragged_plan(ask.n, ask.longest, 0)
    settings = PaintSettings(steps=ask.steps, guidance=5.0)
    with Engine(
        Path(ask.checkpoint), dtype=ask.dtype, kv_cache_gib=ask.kv_cache_gib, deterministic=ask.deterministic
    ) as engine:

        def captions(number: int, count: int = ask.images) -> list[tuple[int, ...]]:
            images = workload.images(engine.config, ask.images, number)[:count]
            found = engine.caption(images, [str(one) for one in range(count)], number, plan)
            return [tuple(one.token_ids) for row in found for one in row]

        def paintings(number: int, count: int = ask.prompts) -> list[tuple[int, ...]]:
            prompts = workload.prompts(ask.prompts, number)[:count]
            keys = [str(one) for one in range(count)]
            found = engine.paint(prompts, ask.each, keys, number, settings)
            return [one.codes for row in found for one in row]

        works = {"captions": (captions, ask.images * ask.n), "paintings": (paintings, ask.prompts * ask.each)}
        seconds = in_turns({name: work for name, (work, _) in works.items()}, ask.rounds)
        unlike = {}
        for name, (work, _) in works.items():
            few = work(0, 1)
            unlike[name] = sum(a != b for a, b in zip(few, work(0), strict=False)) / len(few)
        rates = {name: [count / one for one in seconds[name]] for name, (_, count) in works.items()}
        digest = hashlib.blake2b(repr(captions(0)).encode(), digest_size=8).hexdigest()
    return Said(rates["captions"], rates["paintings"], unlike["captions"], unlike["paintings"], digest)


if __name__ == "__main__":
    print(msgspec.json.encode(answered(msgspec.json.decode(sys.argv[1], type=Ask))).decode())
