"""Several ranks from the command line: they agree with one, end together, resume; the plan starts nothing."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from training import distance, metrics_of, weights

from engine.checkpoints.weights import fingerprint
from engine.records import Preference
from hermes_cli.run.event_log import read_events
from train.command import precompute
from train.config import TrainConfig
from train.distributed.memory_estimate import Sizes, rank_memory
from train.loop import run_training
from train.reference.inputs import read_inputs

SETTINGS = {"steps": 6, "warmup": 1, "learning_rate": 1e-3, "save_every": 2, "num_masks": 2}


def hermes(run: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "hermes_cli.main", "train", "--run", str(run), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def make_run(
    tmp_path: Path,
    checkpoint: Path,
    preferences_like: Callable[..., list[Preference]],
    write_pairs: Callable[[Path, list[Preference]], Path],
) -> Callable[[str], Path]:
    """A run of a few pairs, ready to be trained."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        (folder / "round-1/curate").mkdir(parents=True)
        write_pairs(folder / "round-1/curate/pairs.jsonl", preferences_like(7, missing_captions=(1, 5)))
        train = ",".join(f'"{key}":{value}' for key, value in SETTINGS.items())
        (folder / "run.json").write_text(f'{{"model":"{checkpoint}","train":{{{train}}}}}')
        return folder

    return make


def test_a_plan_shows_settings_commands_and_memory_and_starts_nothing(
    make_run: Callable[[str], Path],
) -> None:
    run = make_run("run")
    before = sorted(run.rglob("*")), (run / "run.json").read_bytes()
    asked = hermes(run, "--dry-run", "--ranks", "2", "--nodes", "2", "--set", "train.zero_stage=2")
    done = subprocess.run(asked, env=environment(), capture_output=True, text=True, check=True)
    assert '"stage": 2' in done.stdout
    assert "torchrun --nnodes 2 --nproc-per-node 2" in done.stdout
    assert "hermes reference" in done.stdout
    assert "memory of each of 4 ranks" in done.stdout
    assert before == (sorted(run.rglob("*")), (run / "run.json").read_bytes())


def test_ranks_that_cannot_share_the_batch_are_one_line(make_run: Callable[[str], Path]) -> None:
    run = make_run("run")
    done = subprocess.run(
        hermes(run, "--ranks", "3"), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "hermes: train: batch_size is 4, it must be a multiple of the 3 ranks\n"
    assert not (run / "round-1/reference.zarr").exists()


def test_a_training_that_is_stopped_says_how_it_goes_on_and_from_which_step_it_does(
    make_run: Callable[[str], Path],
) -> None:
    run = make_run("run")
    given = hermes(run, "--set", "train.steps=30", "--set", "train.max_epochs=0")
    states = (run / "round-1/checkpoint.training").glob
    for sent, status, until in ((signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 12)):
        child = subprocess.Popen(given, env=environment(), stderr=subprocess.PIPE, text=True)
        while not [one for one in states("state-*[0-9]") if int(one.name[6:]) >= until]:
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(sent)
        _, said = child.communicate(timeout=60)
        assert (child.returncode, said) == (status, "hermes: stopped; the same command goes on from there\n")
        last = read_events(run / "events.jsonl")[-1]
        assert (last.stage, last.event) == ("train", "stopped")
    again = subprocess.run(given, env=environment(), capture_output=True, text=True, check=True)
    assert re.search(r"^going on from step \d+ of 30$", again.stdout, re.M)
    (shown,) = re.findall(r"^train round 1 .*", again.stdout, re.M)
    assert " 30/30 " in shown
    assert " left " in shown


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_falls_with_every_stage_and_offloading_only_moves_it(stage: int, dtype: str) -> None:
    if stage == 0 and dtype == "bfloat16":
        pytest.skip("refused")
    sizes = Sizes(model=1_000_000, trained=1_000_000)
    config = TrainConfig(zero_stage=stage, dtype=dtype)
    here = rank_memory(sizes, config, 4, offloaded=False)
    assert here.host == 0
    if stage:
        below = TrainConfig(zero_stage=stage - 1, dtype="float32")
        assert here.moments <= rank_memory(sizes, below, 4, offloaded=False).moments
        moved = rank_memory(sizes, config, 4, offloaded=True)
        assert moved.device == here.parameters + here.gradients
        assert moved.host >= here.moments
    whole = rank_memory(sizes, config, 1, offloaded=False)
    # 16 bytes a parameter, ZeRO's own count for mixed precision, with float32 gradients two more.
    assert whole.device == {"bfloat16": 18, "float32": 20 if stage in (1, 2) else 16}[dtype] * sizes.model


@pytest.mark.slow
def test_two_ranks_agree_with_one_and_resume_exactly_after_their_parent_is_killed(
    tmp_path: Path, checkpoint: Path, make_run: Callable[[str], Path]
) -> None:
    whole, killed = make_run("whole"), make_run("killed")
    subprocess.run(hermes(whole, "--ranks", "2"), env=environment(), check=True, timeout=300)
    two = whole / "round-1/checkpoint"
    pairs = whole / "round-1/curate/pairs.jsonl"
    config = TrainConfig(**SETTINGS, trackers=())
    inputs = read_inputs(pairs, checkpoint, config)
    one = run_training(inputs, tmp_path / "one", whole / "round-1/reference.zarr")
    for first, second in zip(metrics_of(one), metrics_of(two), strict=True):
        assert second.loss == pytest.approx(first.loss, rel=1e-3)
        assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-2)
        assert second.tokens == first.tokens
    moved = distance(weights(checkpoint), weights(one))
    assert distance(weights(one), weights(two)) < 1e-3 * moved

    training = killed / "round-1/checkpoint.training"
    parent = subprocess.Popen(hermes(killed, "--ranks", "2"), env=environment())
    while not list(training.glob("state-*[0-9]")):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    with (training / "lock").open() as lock:
        for _ in range(100):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
        else:
            pytest.fail("a rank outlived its parent")
    alone = tmp_path / "alone"
    shutil.copytree(killed, alone)
    subprocess.run(hermes(alone), env=environment(), check=True, timeout=300)
    assert distance(weights(alone / "round-1/checkpoint"), weights(two)) < 1e-3 * moved
    subprocess.run(hermes(killed, "--ranks", "2"), env=environment(), check=True, timeout=300)
    assert fingerprint(killed / "round-1/checkpoint") == fingerprint(two)
    assert metrics_of(killed / "round-1/checkpoint") == metrics_of(two)


SCRIPT = """
import sys
from pathlib import Path
import msgspec
from train.reference.inputs import read_inputs
from train.loop import run_training
from train.config import TrainConfig
from train.distributed.policy import process_group

pairs, checkpoint, folder = map(Path, sys.argv[1:4])
with process_group(TrainConfig()):
    for name, config in msgspec.json.decode(sys.argv[4], type=dict[str, TrainConfig]).items():
        inputs = read_inputs(pairs, checkpoint, config)
        run_training(inputs, folder / name, folder / f"{config.dtype}.zarr")
"""
MEANS = {
    "stage-0": {"zero_stage": 0, "micro_batch_size": 1},
    "stage-1": {"zero_stage": 1},
    "stage-2": {
        "zero_stage": 2,
        "micro_batch_size": 1,
        "gradient_checkpointing": True,
        "weight_averaging": 0.5,
    },
    "stage-3": {"zero_stage": 3, "micro_batch_size": 1, "gradient_checkpointing": True},
    "offload": {"zero_stage": 3, "offload": "cpu"},
    "bf16-1": {"zero_stage": 1, "dtype": "bfloat16"},
    "bf16-2": {"zero_stage": 2, "dtype": "bfloat16", "weight_averaging": 0.5},
    "bf16-3": {"zero_stage": 3, "dtype": "bfloat16", "gradient_checkpointing": True},
    "lora-2": {"zero_stage": 2, "lora_rank": 2, "weight_averaging": 0.5},
    "lora-3": {"zero_stage": 3, "lora_rank": 2, "micro_batch_size": 1, "gradient_checkpointing": True},
}


@pytest.mark.slow
def test_two_ranks_agree_with_one_however_the_state_is_shared_out(
    tmp_path: Path, checkpoint: Path, make_run: Callable[[str], Path]
) -> None:
    pairs = make_run("run") / "round-1/curate/pairs.jsonl"
    configs = {name: TrainConfig(**SETTINGS, **means, trackers=()) for name, means in MEANS.items()}
    for dtype in ("float32", "bfloat16"):
        inputs = read_inputs(pairs, checkpoint, TrainConfig(**SETTINGS, dtype=dtype))
        precompute(inputs, tmp_path / f"{dtype}.zarr")
    arguments = [str(pairs), str(checkpoint), str(tmp_path), msgspec.json.encode(configs).decode()]
    ranks = {"WORLD_SIZE": "2", "HERMES_RENDEZVOUS": str(tmp_path / "meeting"), "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            env={**environment(), **ranks, "RANK": number, "LOCAL_RANK": number},
        )
        for number in ("0", "1")
    ]
    assert [process.wait(280) for process in processes] == [0, 0]
    start = weights(checkpoint)
    for name, config in configs.items():
        plain = msgspec.structs.replace(
            config, micro_batch_size=0, gradient_checkpointing=False, offload="none"
        )
        inputs = read_inputs(pairs, checkpoint, plain)
        alone = run_training(inputs, tmp_path / f"{name}-one", tmp_path / f"{config.dtype}.zarr")
        near = 0.1 if config.dtype == "bfloat16" else 1e-3
        assert distance(weights(alone), weights(tmp_path / name)) < near * distance(start, weights(alone)), (
            name
        )
