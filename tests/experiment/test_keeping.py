"""What is measured goes on elsewhere: kept files, shipped bases, and what need not be done again."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from made_experiment import fill, grid_of, planned
from safetensors.torch import load_file

from benchmarks.experiment.bases import NAMES, pack, unpack
from benchmarks.experiment.cells import Base, Cell, Curation, Final
from benchmarks.experiment.collect import collect
from benchmarks.experiment.keeping import keep, kept_path, require_same_bases, restore
from benchmarks.experiment.looks import Looks
from benchmarks.experiment.planning import Plan
from engine.checkpoints.weights import fingerprint, load_config, load_model
from engine.errors import CheckpointError, DataError, StaleError
from engine.files.layout import SHOWO_SHAPES, WEIGHTS


def finished(tmp_path: Path, root: str) -> Plan:
    """A grid whose default row is measured to its end under both seeds."""
    found = planned(grid_of(tmp_path), tmp_path / root, final=True)
    fill(found.measured["base"][0][1], 0, 0)
    for seed, task in found.measured["sum"]:
        assert isinstance(task, Final)
        fill(task.cell, seed, 2)
        fill(task, seed, 2)
    return found


def test_kept_measurements_give_the_same_results_without_weights(tmp_path: Path) -> None:
    grid, looks = grid_of(tmp_path), Looks(tmp_path / "looks.json")
    found = finished(tmp_path, "here")
    here = collect(grid, found, looks, final=True)
    path = kept_path(tmp_path / "experiment.json")
    keep(tmp_path / "here", found.tasks, path)
    first = path.read_bytes()
    keep(tmp_path / "here", found.tasks, path)
    assert path.read_bytes() == first
    count = restore(path, tmp_path / "there")
    assert count > 0
    assert not list((tmp_path / "there").rglob(WEIGHTS))
    there = planned(grid, tmp_path / "there", final=True)
    assert collect(grid, there, looks, final=True) == here
    assert restore(path, tmp_path / "there") == 0


def test_a_row_that_is_measured_is_not_trained_again(tmp_path: Path) -> None:
    found = finished(tmp_path, "here")
    half = found.measured["und"][0][1]
    assert isinstance(half, Final)
    fill(half.cell, 0, 1)
    path = tmp_path / "kept.tar.gz"
    keep(tmp_path / "here", found.tasks, path)
    restore(path, tmp_path / "there")
    assert not (tmp_path / "there" / half.cell.folder.relative_to(tmp_path / "here")).exists()
    tasks = planned(grid_of(tmp_path), tmp_path / "there", final=True).tasks
    left = [task for task in tasks if not task.done()]
    assert {row for task in left if isinstance(task, Cell | Final) for row in task.rows} == {"und"}
    # Its cells still need what cells share.
    assert any(isinstance(task, Curation) for task in left)
    shutil.rmtree(tmp_path / "there")
    assert len(planned(grid_of(tmp_path), tmp_path / "there", final=True).tasks) > len(left)


def test_nothing_is_written_over_or_outside(tmp_path: Path) -> None:
    path, root = tmp_path / "kept.tar.gz", tmp_path / "root"
    (root / "round-0").mkdir(parents=True)
    (root / "round-0/eval.json").write_text("mine")
    with tarfile.open(path, "w:gz") as tar:
        for name in ("round-0/eval.json", "../eval.json", "round-0/model.safetensors"):
            entry = tarfile.TarInfo(name)
            entry.size = 5
            tar.addfile(entry, io.BytesIO(b"other"))
    with pytest.raises(DataError, match=r"kept\.tar\.gz"):
        restore(path, root)
    assert (root / "round-0/eval.json").read_text() == "mine"
    assert not (tmp_path / "eval.json").exists()
    assert not list(root.rglob("*.safetensors"))
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="--afresh"):
        restore(path, root)


def test_measurements_of_another_base_are_refused(tmp_path: Path) -> None:
    found = finished(tmp_path, "here")
    base = found.measured["base"][0][1]
    assert isinstance(base, Base)
    with pytest.raises(StaleError, match=f"0-0 were measured, .* has {fingerprint(SHOWO_SHAPES)}"):
        require_same_bases(found.tasks)
    elsewhere = [task for task in found.tasks if not isinstance(task, Base)]
    require_same_bases(elsewhere)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_base_is_a_checkpoint_of_its_own(tmp_path: Path, name: str) -> None:
    folder = unpack(name, tmp_path)
    model = load_model(folder)
    assert model.config.to_dict() == load_config(SHOWO_SHAPES).to_dict()
    assert fingerprint(folder) != fingerprint(SHOWO_SHAPES)
    before = (folder / WEIGHTS).stat().st_mtime_ns
    assert unpack(name, tmp_path) == folder
    assert (folder / WEIGHTS).stat().st_mtime_ns == before


def test_what_is_packed_comes_out_rounded_once(tmp_path: Path) -> None:
    shutil.copytree(SHOWO_SHAPES, tmp_path / "mine/checkpoint")
    pack(tmp_path / "mine", tmp_path)
    folder = unpack("mine", tmp_path / "to", tmp_path)
    whole = load_file(SHOWO_SHAPES / WEIGHTS)
    for name, tensor in load_file(folder / WEIGHTS).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, whole[name].bfloat16().float())
    with pytest.raises(CheckpointError, match="hermes pretrain"):
        pack(tmp_path / "none", tmp_path)
    with pytest.raises(CheckpointError, match="no such base"):
        unpack("none", tmp_path)
