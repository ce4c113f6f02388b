"""A killed run goes on exactly; what it left half done is never taken for whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from damage import damaged
from safetensors import safe_open
from training import CONFIG, KilledError, die_at, metrics_of, run

from engine.checkpoints.weights import fingerprint
from engine.errors import BusyError, CheckpointError, StaleError
from engine.files.seals import SEAL
from train.data.batch import Layout
from train.distributed.policy import Policy, open_policy
from train.logging.metrics import TrainStep
from train.logging.run_state import RunState
from train.reference.inputs import RunBasis
from train.reference.reference import ReferenceBasis


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "bfloat16", "zero_stage": 2},
        {"dtype": "bfloat16", "zero_stage": 3, "lora_rank": 2},
        pytest.param({"dtype": "bfloat16", "zero_stage": 1}, marks=pytest.mark.slow),
        {"zero_stage": 0, "micro_batch_size": 2},
    ],
    ids=str,
)
def test_a_run_killed_twice_ends_with_the_weights_and_metrics_of_an_uninterrupted_one(
    tmp_path: Path, pairs_file: Path, checkpoint: Path, changes: dict
) -> None:
    config = msgspec.structs.replace(CONFIG, **changes)
    whole = run(pairs_file, checkpoint, tmp_path / "whole", config)
    out = tmp_path / "out"
    for step in (6, 11):
        with pytest.raises(KilledError):
            run(pairs_file, checkpoint, out, config, die_at(step))
        assert not out.exists()
        assert len(list(out.with_name("out.training").glob("state-*"))) == 1
    seen: list[TrainStep] = []
    run(pairs_file, checkpoint, out, config, seen.append)
    assert [step.step for step in seen] == [9, 10, 11, 12]
    assert fingerprint(out) == fingerprint(whole)
    assert metrics_of(out) == metrics_of(whole)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_fits_parameters_of_which_nothing_stays_whole(
    tmp_path: Path, checkpoint: Path, dtype: str
) -> None:
    config = msgspec.structs.replace(CONFIG, dtype=dtype)
    layout = Layout.load(checkpoint)
    rows = layout.stack([layout.caption_row(range(9), (5, 6, 7))])

    def go_on(policy: Policy, name: str) -> tuple[float, str]:
        norm = policy.step([-policy(rows).mean()], 1e-3)
        policy.publish(tmp_path / name)
        return norm, fingerprint(tmp_path / name)

    with open_policy(config, checkpoint, persist=0) as policy:
        for _ in range(3):
            policy.step([-policy(rows).mean()], 1e-3)
        policy.save(tmp_path / "state")
        straight = go_on(policy, "straight")
    with open_policy(config, checkpoint, persist=0) as policy:
        policy.load(tmp_path / "state")
        assert go_on(policy, "resumed") == straight


@pytest.fixture
def killed(tmp_path: Path, pairs_file: Path, checkpoint: Path) -> Path:
    """The output folder of a run that was killed after step 10, with the states after 4 and 8."""
    out = tmp_path / "out"
    config = msgspec.structs.replace(CONFIG, keep=2)
    with pytest.raises(KilledError):
        run(pairs_file, checkpoint, out, config, die_at(10))
    return out


def test_the_latest_states_are_kept_and_hold_no_pickle(killed: Path) -> None:
    folder = killed.with_name("out.training")
    assert sorted(path.name for path in folder.glob("state-*")) == ["state-000004", "state-000008"]
    kinds = {path.suffix for path in folder.rglob("state-*/*")}
    assert kinds == {".json", ".safetensors"}
    with safe_open(folder / "state-000008/state-00000-of-00001.safetensors", "pt") as stored:
        assert {str(stored.get_tensor(name).dtype) for name in stored.offset_keys()} == {"torch.float32"}


def test_half_made_and_half_removed_states_are_passed_over(
    killed: Path, tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    folder = killed.with_name("out.training")
    for name in ("state-000012.new", "state-000004.gone"):
        shutil.copytree(folder / "state-000008", folder / name)
        next((folder / name).glob("*.safetensors")).write_bytes(b"torn")
    with (folder / "metrics.jsonl").open("ab") as lines:
        lines.write(b'{"step":11,"lo')
    seen: list[TrainStep] = []
    run(pairs_file, checkpoint, killed, report=seen.append)
    assert [step.step for step in seen] == [9, 10, 11, 12]
    assert not list(folder.glob("state-*"))
    assert [step.step for step in metrics_of(killed)] == list(range(1, 13))


def test_a_damaged_state_is_reported_and_without_it_the_earlier_one_goes_on(
    killed: Path, tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    latest = killed.with_name("out.training") / "state-000008"
    for shard in latest.glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"state-000008.*remove it"):
        run(pairs_file, checkpoint, killed)
    shutil.rmtree(latest)
    seen: list[TrainStep] = []
    run(pairs_file, checkpoint, killed, report=seen.append)
    assert seen[0].step == 5
    assert fingerprint(killed) == fingerprint(run(pairs_file, checkpoint, tmp_path / "whole"))


def test_damage_to_any_file_of_a_state_or_a_checkpoint_is_found(
    killed: Path, pairs_file: Path, checkpoint: Path
) -> None:
    state = killed.with_name("out.training") / "state-000008"
    with open_policy(CONFIG, checkpoint) as policy:
        for file in sorted(state.iterdir()):
            for kind in ("emptied", "cut", "deleted", (0.99, 0)):
                if (file.name, kind) == (SEAL, "deleted"):
                    continue
                with damaged(file, kind), pytest.raises(CheckpointError, match=r"state-000008.*remove it"):
                    policy.load(state)
        policy.load(state)
    run(pairs_file, checkpoint, killed)
    whole = fingerprint(killed)
    for file in sorted(one for one in killed.rglob("*") if one.is_file() and one.name != SEAL):
        for kind in ("emptied", "cut", "deleted", (0.5, 3)):
            with (
                damaged(file, kind),
                pytest.raises(CheckpointError, match=rf"{file.name}|no model.safetensors"),
            ):
                fingerprint(killed)
    assert fingerprint(killed) == whole


def test_lost_metrics_are_not_papered_over(killed: Path, pairs_file: Path, checkpoint: Path) -> None:
    (killed.with_name("out.training") / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds 0 steps, the state 8"):
        run(pairs_file, checkpoint, killed)


def test_a_killed_run_is_not_continued_with_other_settings(
    killed: Path, pairs_file: Path, checkpoint: Path
) -> None:
    with pytest.raises(StaleError, match=r"beta 0\.2, now 0\.4"):
        run(pairs_file, checkpoint, killed, msgspec.structs.replace(CONFIG, beta=0.4))


def test_a_killed_run_may_go_on_by_other_means(
    killed: Path, tmp_path: Path, pairs_file: Path, checkpoint: Path
) -> None:
    """Less memory after running out of it: the steps are the same up to the order of sums."""
    config = msgspec.structs.replace(CONFIG, micro_batch_size=1, gradient_checkpointing=True, zero_stage=1)
    run(pairs_file, checkpoint, killed, config)
    run(pairs_file, checkpoint, tmp_path / "whole")
    for one, two in zip(metrics_of(killed), metrics_of(tmp_path / "whole"), strict=True):
        assert one.loss == pytest.approx(two.loss, rel=1e-3)


def test_two_runs_do_not_train_into_one_folder(tmp_path: Path, pairs_file: Path, checkpoint: Path) -> None:
    out = tmp_path / "out"
    basis = RunBasis(config=CONFIG, reference=ReferenceBasis.of(checkpoint, [], CONFIG), start="")
    with RunState(out, basis).held(), pytest.raises(BusyError, match="another process"):
        run(pairs_file, checkpoint, out)
