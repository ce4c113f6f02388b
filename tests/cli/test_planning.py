"""What a command says of its processes before it starts them, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from engine.checkpoints.weights import WEIGHTS, load_config
from engine.errors import ConfigError
from engine.files.layout import EMBEDDED_MODEL
from engine.machine.kv_cache import LEAST, MOST, TEXT_TOKENS, WORKSPACE, least_gib, token_bytes
from engine.machine.plan import GIB, plan
from engine.machine.probe import Machine
from engine.serving.arguments import Card, showo_arguments
from hermes_cli.settings import RunSettings, settle
from hermes_cli.stages.processes import cache_gib, engine_needs, plan_processes, training_needs
from train.config import TrainConfig

SETTINGS = RunSettings()


def trained(**changes: object) -> RunSettings:
    return msgspec.structs.replace(SETTINGS, train=msgspec.structs.replace(TrainConfig(), **changes))


def test_a_run_says_in_two_lines_what_it_will_use(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan_processes(SETTINGS, EMBEDDED_MODEL, samples=True, trains=True)
    said = " ".join(capsys.readouterr().out.split())
    threads = found.engine[0].threads
    assert f"engine: float32 on CPU, branched sampler; 1 process of {threads} thread" in said
    assert "KV cache 0.2 GiB" in said
    assert f"training: 1 rank of {threads} thread" in said
    assert "engine asleep meanwhile" in said
    assert (found.sleep, found.cut) == (1, False)


def test_an_engine_is_planned_with_the_weights_that_it_will_hold() -> None:
    needs = engine_needs(SETTINGS.engine, EMBEDDED_MODEL)
    stored = (EMBEDDED_MODEL / WEIGHTS).stat().st_size
    whole = engine_needs(settle({"engine": {"dtype": "float32", "kv_cache_gib": 2.0}}).engine, EMBEDDED_MODEL)
    half = engine_needs(
        settle({"engine": {"dtype": "bfloat16", "tensor_parallel": 2}}).engine, EMBEDDED_MODEL
    )
    assert abs(whole.weights - 2 * half.weights) == 0
    assert stored <= 2 * whole.weights
    assert (whole.cache, whole.least) == (2 * GIB, 2 * GIB)
    config = load_config(EMBEDDED_MODEL)
    of_token = token_bytes(config, "float32", config.head_dim)
    longest, in_flight = config.max_position_embeddings, 256 * (config.prefix_length + TEXT_TOKENS)
    assert (needs.cache, needs.least) == (in_flight * of_token, longest * of_token)
    assert (half.processes, half.cache) == (2, needs.cache // 2)


def test_whose_cache_is_planned_depends_on_who_samples() -> None:
    """Beside the branched sampler vLLM gets what it needs to start, and a plan that is cut cuts the other."""
    paged = engine_needs(settle({"engine": {"dtype": "float32", "sampler": "paged"}}).engine, EMBEDDED_MODEL)
    assert (paged.cache, paged.probes) == (LEAST * GIB, 0)
    branched = engine_needs(
        settle({"engine": {"dtype": "float32", "kv_cache_gib": 3.0}}).engine, EMBEDDED_MODEL
    )
    config = load_config(EMBEDDED_MODEL)
    assert branched.probes == paged.least == least_gib(config, "float32", config.head_dim) * GIB < GIB // 64
    assert branched.cache == 3 * GIB


def test_an_engine_on_a_gpu_would_like_keys_and_values_of_all_that_is_in_flight() -> None:
    many = settle({"engine": {"dtype": "float32", "max_sequences": 9000}})
    here, there = (engine_needs(many.engine, EMBEDDED_MODEL, device) for device in ("cpu", "cuda"))
    assert here.cache == MOST * GIB < there.cache
    assert (here.weights, here.probes) == (there.weights, there.least)
    assert there.work == WORKSPACE * GIB


def test_an_engine_whose_cache_was_cut_starts_though_its_tokenizers_have_entered_the_gpu_meanwhile() -> None:
    settings = settle({"engine": {"dtype": "float32", "max_sequences": 9000}})
    needs, here = (engine_needs(settings.engine, EMBEDDED_MODEL, device) for device in ("cuda", "cpu"))
    free, total = needs.work + needs.weights + needs.cache, 2 * needs.cache
    machine = Machine(cores=((0,),), memory=total)
    found = plan(msgspec.structs.replace(machine, gpus=(free,)), needs, None)
    assert found.cut
    arguments = (
        load_config(EMBEDDED_MODEL),
        "float32",
        9000,
        cache_gib(settings.engine, found),
        needs.weights,
        1,
    )
    at_start = Card(free - GIB, total)
    assert 0 < showo_arguments(*arguments, at_start)["kv_cache_memory_bytes"] < found.cache
    crowded = plan(msgspec.structs.replace(machine, memory=3 * GIB), here, None)
    assert crowded.cut
    assert cache_gib(settings.engine, crowded) == crowded.cache / GIB


def test_training_is_planned_with_what_its_settings_cost() -> None:
    plain = training_needs(trained(), EMBEDDED_MODEL, 1).memory
    assert training_needs(trained(gradient_checkpointing=True), EMBEDDED_MODEL, 1).memory < plain
    assert training_needs(trained(micro_batch_size=1), EMBEDDED_MODEL, 1).memory < plain
    assert training_needs(trained(lora_rank=4), EMBEDDED_MODEL, 1).memory < plain
    assert training_needs(trained(batch_size=8), EMBEDDED_MODEL, 1).memory > plain
    assert training_needs(trained(objective="und"), EMBEDDED_MODEL, 1).memory < plain


def test_training_on_a_gpu_is_planned_with_what_lies_there() -> None:
    plain = training_needs(trained(), EMBEDDED_MODEL, 1)
    there = training_needs(trained(device="cuda"), EMBEDDED_MODEL, 1)
    assert (plain.gpu, there.memory) == (0, 0)
    # ZeRO's bucket and Adam's temporaries, which a CPU's estimate counts with the libraries.
    assert there.gpu > plain.memory
    moved = training_needs(trained(device="cuda", offload="cpu"), EMBEDDED_MODEL, 1)
    assert moved.gpu < there.gpu
    assert moved.memory > there.gpu - moved.gpu
    scorers = msgspec.structs.replace(SETTINGS.reference, ranks=4000)
    crowded = msgspec.structs.replace(trained(device="cuda"), reference=scorers)
    assert (
        training_needs(crowded, EMBEDDED_MODEL, 1).gpu == 2 * training_needs(crowded, EMBEDDED_MODEL, 2).gpu
    )
    assert training_needs(crowded, EMBEDDED_MODEL, 1).gpu > there.gpu


def test_a_gpu_that_settings_name_and_the_machine_lacks_is_one_line_before_anything_starts() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    with pytest.raises(ConfigError, match=r"train\.device is cuda, and torch finds no GPU here; set"):
        plan_processes(trained(device="cuda"), EMBEDDED_MODEL, trains=True)


def test_what_does_not_fit_is_refused_in_one_line_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training needs about [0-9.]+ GiB, and"):
        plan_processes(trained(batch_size=1 << 16), EMBEDDED_MODEL, trains=True)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hermes_cli.main", "curate", "--run", str(tmp_path / "run")),
            *("--limit", "2", "--set", "engine.kv_cache_gib=100000"),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("hermes: an engine needs at least 10000")
    assert "lower engine.kv_cache_gib" in line
