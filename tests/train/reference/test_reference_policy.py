"""Round 2 of a run on a tiny model, held against the base or against the round before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
import torch
from training import CONFIG, KilledError, die_at

from engine.checkpoints.weights import fingerprint, load_model
from engine.errors import StaleError
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import ReferenceSettings, RunSettings, settle
from hermes_cli.stages.train import reference_round, train_round
from train.command import precompute
from train.config import METRICS
from train.data.batch import Layout
from train.logging.metrics import TrainStep, read_metrics
from train.logps.row_logps import RowLogps
from train.loop import run_training
from train.pair_source import PairSource
from train.reference.inputs import read_inputs
from train.reference.reference import Reference, open_reference
from train.reference.store import read_whole

Policy = Literal["previous", "base"]


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path, other_checkpoint: Path, pairs_file: Path) -> RunFolder:
    """A run whose base is `checkpoint` and whose round 1 has given `other_checkpoint`; round 2 has pairs."""
    run = RunFolder(tmp_path / "run", str(checkpoint))
    shutil.copytree(other_checkpoint, run.checkpoint(1))
    run.curation(2).mkdir(parents=True)
    shutil.copy(pairs_file, run.pairs(2))
    return run


def settings_of(policy: Policy | tuple[Policy, ...]) -> RunSettings:
    return RunSettings(train=CONFIG, reference=ReferenceSettings(policy=policy))


def first_step(run: RunFolder) -> TrainStep:
    return read_metrics(run.training(2) / METRICS)[0]


def test_against_the_base_the_first_margins_are_those_of_the_rounds_before(folder: RunFolder) -> None:
    base, before, pairs = folder.checkpoint(0), folder.checkpoint(1), folder.pairs(2)
    train_round(folder, settings_of("base"), 2)
    of_base = precompute(read_inputs(pairs, base, CONFIG), folder.root / "of-base.zarr")
    stored, wanted = read_whole(folder.reference(2)), read_whole(of_base)
    assert stored
    assert wanted
    for name in Reference._fields:
        assert np.array_equal(stored[name], wanted[name], equal_nan=True), name

    # The first step's policy is the round before, whose margins over the base are computed here live.
    inputs = read_inputs(pairs, before, CONFIG, base)
    reference = open_reference(folder.reference(2), inputs.basis.reference)
    source = PairSource(CONFIG, inputs.preferences, Layout.load(before), reference)
    samples = source.samples(0)
    batch = source.rows(samples)
    logps = [RowLogps(load_model(one)).score(batch.rows) for one in (before, base)]
    step = first_step(folder)
    for found, (win, lose) in ((step.captions, (0, 1)), (step.images, (2, 3))):
        assert found is not None
        policy, reference = (batch.split(one) for one in logps)
        margins = CONFIG.beta * ((policy[win] - reference[win]) - (policy[lose] - reference[lose]))
        has = batch.has(batch.captions if win == 0 else batch.images)
        assert found.margin == pytest.approx(margins[has].mean().item(), abs=1e-3)
        assert abs(found.margin) > 0.01


def test_against_the_round_before_the_first_margins_are_zero(folder: RunFolder) -> None:
    train_round(folder, settings_of("previous"), 2)
    step = first_step(folder)
    assert step.captions is not None
    assert step.images is not None
    assert abs(step.captions.margin) < 1e-4
    assert abs(step.images.margin) < 1e-4


def test_a_training_records_what_it_started_from_and_what_it_was_held_against(folder: RunFolder) -> None:
    base, before = (fingerprint(folder.checkpoint(number)) for number in (0, 1))
    train_round(folder, settings_of(("previous", "base")), 2)
    found = json.loads((folder.training(2) / "basis.json").read_text())
    assert (found["start"], found["reference"]["weights"]) == (before, base)
    # Training starts at the round before whatever it is held against: the two ends differ by few steps.
    weights = [load_model(folder.checkpoint(number)).state_dict() for number in (0, 1, 2)]
    far = [sum(float((one[n] - weights[2][n]).square().sum()) for n in one) for one in weights[:2]]
    assert far[1] < 0.1 * far[0]


@pytest.mark.parametrize("began", ["previous", "base"])
def test_a_training_that_was_begun_goes_on_under_its_own_reference_alone(
    folder: RunFolder, began: Policy
) -> None:
    settings = settings_of(began)
    frozen = folder.checkpoint(0 if began == "base" else 1)
    reference_round(folder, settings, 2)
    inputs = read_inputs(folder.pairs(2), folder.checkpoint(1), CONFIG, frozen)
    with pytest.raises(KilledError):
        run_training(inputs, folder.checkpoint(2), folder.reference(2), die_at(6))
    stored = {path: path.read_bytes() for path in folder.reference(2).rglob("*") if path.is_file()}
    other = settings_of("previous" if began == "base" else "base")
    prints = [fingerprint(folder.checkpoint(number)) for number in (0, 1)]
    for stage in (train_round, reference_round):
        with pytest.raises(StaleError, match="was started with reference weights") as refused:
            stage(folder, other, 2)
        assert "\n" not in str(refused.value)
        assert all(one in str(refused.value) for one in prints)
    assert stored == {path: path.read_bytes() for path in folder.reference(2).rglob("*") if path.is_file()}
    train_round(folder, settings, 2)
    assert folder.trained(2)


def test_a_list_names_the_reference_of_each_round_and_its_last_holds_on() -> None:
    def references(policy: object) -> list[int]:
        found = settle({"reference": {"policy": policy}}).reference
        assert msgspec.convert(msgspec.to_builtins(found), ReferenceSettings) == found
        return [found.round_before(number) for number in (1, 2, 3, 4)]

    assert references("previous") == references(["previous"]) == [0, 1, 2, 3]
    assert references("base") == [0, 0, 0, 0]
    assert references(["previous", "previous", "base"]) == [0, 1, 0, 0]
    assert references(["base", "previous"]) == [0, 1, 2, 3]


def test_lora_too_starts_from_the_round_before(folder: RunFolder) -> None:
    config = msgspec.structs.replace(CONFIG, lora_rank=2, steps=2, warmup=0, learning_rate=1e-6)
    settings = RunSettings(train=config, reference=ReferenceSettings(policy="base"))
    train_round(folder, settings, 2)
    before, after = (load_model(folder.checkpoint(number)).state_dict() for number in (1, 2))
    assert all(torch.allclose(before[name], after[name], atol=1e-3) for name in before)
    step = first_step(folder)
    assert step.captions is not None
    assert abs(step.captions.margin) > 0.01
