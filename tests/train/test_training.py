"""Training under ZeRO-3: it learns, it resumes exactly, it publishes what loads, it refuses what moved."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from engine.errors import CheckpointError, ConfigError, StageOrderError, StaleError
from engine.records import Preference
from engine.tokenizers.image import load_image_tokenizer
from engine.tokenizers.text import TextTokenizer
from engine.weights import fingerprint, load_model
from train.batch import Layout
from train.command import precompute, run_training
from train.config import TrainConfig
from train.journal import read_metrics
from train.metrics import TrainStep
from train.row_logps import RowLogps
from train.zero3 import decay_groups, open_policy

CONFIG = TrainConfig(steps=12, warmup=2, learning_rate=1e-3, save_every=4, mask_draws=2)


class KilledError(Exception):
    """Stands for the signal that ends a process."""


def die_at(step: int) -> Callable[[TrainStep], None]:
    def report(record: TrainStep) -> None:
        if record.step == step:
            raise KilledError

    return report


def run(
    pairs: Path,
    checkpoint: Path,
    out: Path,
    config: TrainConfig = CONFIG,
    report: Callable[[TrainStep], None] = lambda step: None,
) -> Path:
    store = out.with_name("refs.zarr")
    precompute(pairs, checkpoint, store, config)
    return run_training(pairs, checkpoint, out, store, config, report)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_loss_falls_and_both_margins_rise(tmp_path: Path, pairs_file: Path, checkpoint: Path) -> None:
    steps: list[TrainStep] = []
    config = msgspec.structs.replace(CONFIG, steps=24)
    run(pairs_file, checkpoint, tmp_path / "out", config, steps.append)
    first, last = steps[0], steps[-3:]
    assert first.captions is not None
    assert first.images is not None
    assert abs(first.captions.margin) < 1e-4
    assert abs(first.images.margin) < 1e-4
    assert max(step.loss for step in last) < 0.6 * first.loss
    for step in last:
        assert step.captions is not None
        assert step.images is not None
        assert step.captions.margin > 0.5
        assert step.images.margin > 0.5
        assert step.accuracy > 0.6
    assert read_metrics(tmp_path / "out.training" / "metrics.jsonl") == steps


def test_the_checkpoint_is_complete_loads_and_differs(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    out = run(pairs_file, checkpoint, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {path.name for path in checkpoint.iterdir()}
    assert (out / "config.json").read_bytes() == (checkpoint / "config.json").read_bytes()
    load_model(out)
    load_image_tokenizer(out / "image_tokenizer")
    TextTokenizer.load(out / "tokenizer.json")
    before, after = weights(checkpoint), weights(out)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if "norm" not in name)
    assert not [path.name for path in (tmp_path / "out.training").glob("state-*")]


def test_a_run_killed_twice_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    whole = run(pairs_file, checkpoint, tmp_path / "whole")
    out = tmp_path / "out"
    for step in (6, 11):
        with pytest.raises(KilledError):
            run(pairs_file, checkpoint, out, report=die_at(step))
        assert not out.exists()
        assert len(list(out.with_name("out.training").glob("state-*"))) == 1
    seen: list[TrainStep] = []
    run(pairs_file, checkpoint, out, report=seen.append)
    assert [step.step for step in seen] == [9, 10, 11, 12]
    assert fingerprint(out) == fingerprint(whole)

    def untimed(name: str) -> list[TrainStep]:
        steps = read_metrics(tmp_path / f"{name}.training" / "metrics.jsonl")
        return [msgspec.structs.replace(step, seconds=0.0) for step in steps]

    assert untimed("out") == untimed("whole")


def test_a_complete_run_is_not_repeated(tmp_path: Path, pairs_file: Path, checkpoint: Path) -> None:
    out = run(pairs_file, checkpoint, tmp_path / "out")
    steps: list[TrainStep] = []
    assert run(pairs_file, checkpoint, out, report=steps.append) == out
    assert not steps


def test_a_killed_run_is_not_continued_with_other_settings(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KilledError):
        run(pairs_file, checkpoint, out, report=die_at(6))
    with pytest.raises(StaleError, match=r"beta 0\.2, now 0\.4"):
        run(pairs_file, checkpoint, out, msgspec.structs.replace(CONFIG, beta=0.4))


def test_a_checkpoint_of_another_origin_is_not_overwritten(
    tmp_path: Path, pairs_file: Path, checkpoint: Path, other_checkpoint: Path
) -> None:
    before = fingerprint(other_checkpoint)
    with pytest.raises(StaleError, match="choose another output folder"):
        run(pairs_file, checkpoint, other_checkpoint)
    assert fingerprint(other_checkpoint) == before


def test_training_refuses_a_reference_of_other_weights(
    tmp_path: Path, pairs_file: Path, checkpoint: Path, other_checkpoint: Path
) -> None:
    store = tmp_path / "refs.zarr"
    with pytest.raises(StageOrderError):
        run_training(pairs_file, checkpoint, tmp_path / "out", store, CONFIG)
    precompute(pairs_file, other_checkpoint, store, CONFIG)
    with pytest.raises(StaleError, match=fingerprint(other_checkpoint)):
        run_training(pairs_file, checkpoint, tmp_path / "out", store, CONFIG)


def test_a_damaged_state_is_reported_with_its_folder(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KilledError):
        run(pairs_file, checkpoint, out, report=die_at(6))
    for shard in out.with_name("out.training").glob("state-*/ranks/*optim_states.pt"):
        shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"state-000004.*remove it"):
        run(pairs_file, checkpoint, out)


@pytest.mark.parametrize("objective", ["product", "und", "gen"])
def test_every_objective_trains(tmp_path: Path, pairs_file: Path, checkpoint: Path, objective: str) -> None:
    steps: list[TrainStep] = []
    config = TrainConfig(objective=objective, steps=3, warmup=1, masks_per_step=2, caption_anchor=0.1)
    run(pairs_file, checkpoint, tmp_path / "out", config, steps.append)
    assert steps[-1].skipped == {"product": 2, "und": 1, "gen": 1}[objective]
    assert (steps[-1].captions is None) == (objective == "gen")
    assert (steps[-1].images is None) == (objective == "und")


def test_weight_decay_spares_norms_biases_and_embeddings(checkpoint: Path) -> None:
    module = RowLogps(load_model(checkpoint))
    decayed, spared = decay_groups(module, 0.01)
    names = {id(p): name for name, p in module.named_parameters()}
    assert {p.ndim for p in decayed["params"]} == {2}
    assert not [n for p in decayed["params"] if "norm" in (n := names[id(p)]) or "embed" in n]
    assert spared["weight_decay"] == 0.0
    assert any("embed_tokens" in names[id(p)] for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_sharded_parameters_give_the_gradients_of_the_plain_module(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    """Nothing stays whole here, the head included: the loss must see it gathered."""
    layout = Layout.load(checkpoint)
    rows = layout.stack([layout.caption_row(range(9), (5, 6, 7)), layout.caption_row(range(9), (8, 9))])
    plain = RowLogps(load_model(checkpoint))
    wanted = plain(*rows)
    (-wanted.mean()).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()])
    with open_policy(CONFIG, checkpoint, persist=0) as policy:
        found = policy(rows)
        assert policy.step(-found.mean(), 0.0) == pytest.approx(norm.item(), rel=1e-5)
    torch.testing.assert_close(found.detach(), wanted.detach())


FAILING_RUN = """
import sys
from pathlib import Path
import torch.distributed as dist
from train.config import TrainConfig
from train.zero3 import open_policy

try:
    with open_policy(TrainConfig(), Path(sys.argv[1])):
        assert dist.is_initialized()
        raise KeyError
except KeyError:
    sys.exit(3 if dist.is_initialized() else 0)
sys.exit(4)
"""


def test_the_process_group_ends_with_the_run_even_if_it_fails(checkpoint: Path) -> None:
    """In a process of its own: here, another test's engine may hold the group that they would share."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", FAILING_RUN, str(checkpoint)]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, timeout=300, check=False)
    assert ended.returncode == 0


def test_a_missing_cuda_device_is_a_configuration_error(checkpoint: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ConfigError, match="cuda"), open_policy(TrainConfig(device="cuda"), checkpoint):
        pass


SCRIPT = """
import sys
from pathlib import Path
import msgspec
from train.command import run_training
from train.config import TrainConfig

pairs, checkpoint, out, store = map(Path, sys.argv[1:5])
config = msgspec.json.decode(sys.argv[5], type=TrainConfig)
run_training(pairs, checkpoint, out, store, config)
"""


def launch(arguments: list[str], ranks: int) -> list[str]:
    """Runs SCRIPT once a rank, as a launcher would; returns what each rank wrote to stdout."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = str(Path(__file__).parents[2])
    base = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            | {"LOCAL_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=500) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [output for output, _ in outputs]


def test_a_run_in_its_own_process_leaves_stdout_to_its_caller(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    config = TrainConfig(steps=2, warmup=1)
    store = precompute(pairs_file, checkpoint, tmp_path / "refs.zarr", config)
    paths = [str(path) for path in (pairs_file, checkpoint, tmp_path / "out", store)]
    assert launch([*paths, msgspec.json.encode(config).decode()], ranks=1) == [""]


@pytest.mark.slow
def test_two_ranks_agree_with_one(
    tmp_path: Path,
    checkpoint: Path,
    preferences_like: Callable[..., list[Preference]],
    write_pairs: Callable[[Path, list[Preference]], Path],
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", preferences_like(7, missing_captions=(1, 5)))
    config = TrainConfig(steps=4, warmup=1, learning_rate=1e-3, save_every=2)
    alone = run(pairs, checkpoint, tmp_path / "one", config)
    paths = [str(p) for p in (pairs, checkpoint, tmp_path / "two", tmp_path / "refs.zarr")]
    launch([*paths, json.dumps(msgspec.to_builtins(config))], ranks=2)
    one, two = (read_metrics(tmp_path / f"{name}.training" / "metrics.jsonl") for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        assert second.loss == pytest.approx(first.loss, rel=1e-3)
        assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-2)
        assert second.captions.pairs == first.captions.pairs
    start, trained = weights(checkpoint), weights(alone)
    moved = sum(float((trained[name] - start[name]).square().sum()) for name in start)
    apart = sum(float((trained[n] - w).square().sum()) for n, w in weights(tmp_path / "two").items())
    assert apart < 1e-3 * moved
