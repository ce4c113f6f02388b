"""Training: it learns, it publishes what loads, it refuses what does not belong together."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from training import CONFIG, run, weights

from engine.checkpoints.swap_probe import PROBES, read_probes
from engine.checkpoints.weights import fingerprint, load_model
from engine.errors import ConfigError, StageOrderError, StaleError
from engine.files.seals import SEAL
from engine.tokenizers.image import load_image_tokenizer
from engine.tokenizers.text import TextTokenizer
from train.command import precompute
from train.config import TrainConfig
from train.data.batch import Layout
from train.data.preferences import load_preferences, usable
from train.distributed.policy import decay_groups, open_policy
from train.logging.metrics import TrainStep, read_metrics
from train.logps.row_logps import RowLogps
from train.loop import run_training
from train.reference.inputs import read_inputs


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
    assert all(step.tokens > 0 and step.peak_memory_mib > 0 for step in steps)


def test_few_pairs_bound_the_steps(tmp_path: Path, pairs_file: Path, checkpoint: Path) -> None:
    count = len(usable(load_preferences(pairs_file), CONFIG))
    bound = msgspec.structs.replace(CONFIG, steps=100, batch_size=4, max_epochs=1.5)
    run(pairs_file, checkpoint, tmp_path / "out", bound)
    assert len(read_metrics(tmp_path / "out.training" / "metrics.jsonl")) == math.ceil(1.5 * count / 4)


def test_the_checkpoint_is_complete_loads_and_differs(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    out = run(pairs_file, checkpoint, tmp_path / "out")
    written = {path.name for path in checkpoint.iterdir()} | {PROBES, SEAL}
    assert {path.name for path in out.iterdir()} == written
    assert (out / "config.json").read_bytes() == (checkpoint / "config.json").read_bytes()
    load_model(out)
    load_image_tokenizer(out / "image_tokenizer")
    TextTokenizer.load(out / "tokenizer.json")
    before, after = weights(checkpoint), weights(out)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if "norm" not in name)
    assert not [path.name for path in (tmp_path / "out.training").glob("state-*")]


def test_the_checkpoint_says_what_the_policy_gave_for_fixed_captions(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    out = run(pairs_file, checkpoint, tmp_path / "out")
    probes = read_probes(out)
    assert probes is not None
    layout = Layout.load(out)
    rows = layout.stack([layout.caption_row(one.codes, one.token_ids) for one in probes.probes])
    given = [one.logp for one in probes.probes]
    assert given == pytest.approx(RowLogps(load_model(out)).score(rows).tolist(), abs=1e-4)
    assert given != pytest.approx(RowLogps(load_model(checkpoint)).score(rows).tolist(), abs=1e-2)


def test_a_complete_run_is_not_repeated(tmp_path: Path, pairs_file: Path, checkpoint: Path) -> None:
    out = run(pairs_file, checkpoint, tmp_path / "out")
    steps: list[TrainStep] = []
    assert run(pairs_file, checkpoint, out, report=steps.append) == out
    assert not steps


def test_a_checkpoint_of_another_origin_is_not_overwritten(
    tmp_path: Path, pairs_file: Path, checkpoint: Path, other_checkpoint: Path
) -> None:
    before = fingerprint(other_checkpoint)
    with pytest.raises(StaleError, match="choose another output folder"):
        run(pairs_file, checkpoint, other_checkpoint)
    assert fingerprint(other_checkpoint) == before


def test_a_folder_of_other_files_is_refused_before_the_training(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    steps: list[TrainStep] = []
    with pytest.raises(StaleError, match="holds files and no model"):
        run(pairs_file, checkpoint, out, report=steps.append)
    assert not steps


def test_training_refuses_a_reference_of_other_weights(
    tmp_path: Path, pairs_file: Path, checkpoint: Path, other_checkpoint: Path
) -> None:
    store = tmp_path / "refs.zarr"
    with pytest.raises(StageOrderError):
        run_training(read_inputs(pairs_file, checkpoint, CONFIG), tmp_path / "out", store)
    precompute(read_inputs(pairs_file, other_checkpoint, CONFIG), store)
    with pytest.raises(StaleError, match=fingerprint(other_checkpoint)):
        run_training(read_inputs(pairs_file, checkpoint, CONFIG), tmp_path / "out", store)


def test_a_loss_that_is_no_number_ends_the_run_with_its_step(
    tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    config = msgspec.structs.replace(CONFIG, learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(ConfigError, match=r"at step \d+ the loss is"):
        run(pairs_file, checkpoint, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("objective", ["product", "und", "gen"])
def test_every_objective_trains(tmp_path: Path, pairs_file: Path, checkpoint: Path, objective: str) -> None:
    steps: list[TrainStep] = []
    config = TrainConfig(objective=objective, steps=3, masks_per_step=2, trackers=())
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


def test_sharded_parameters_give_the_gradients_of_the_plain_module(checkpoint: Path) -> None:
    """Nothing stays whole here, the head included: the loss must see it gathered."""
    layout = Layout.load(checkpoint)
    rows = layout.stack([layout.caption_row(range(9), (5, 6, 7)), layout.caption_row(range(9), (8, 9))])
    plain = RowLogps(load_model(checkpoint))
    wanted = plain(*rows)
    (-wanted.mean()).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()])
    with open_policy(CONFIG, checkpoint, persist=0) as policy:
        found = policy(rows)
        assert policy.step([-found.mean()], 0.0) == pytest.approx(norm.item(), rel=1e-5)
    torch.testing.assert_close(found.detach(), wanted.detach())


FAILING_RUN = """
import sys
from pathlib import Path
import torch.distributed as dist
from train.config import TrainConfig
from train.distributed.policy import open_policy

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
