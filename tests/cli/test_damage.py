"""Damage to a finished run is found before a number is made of it, whatever file it hits."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from damage import KINDS, damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from made_run import made_run, weights_of

from curate.evaluation.records import EvalOrigin, read_gap
from curate.store.origin import read_origin
from curate.store.previous_pairs import PairHistory
from curate.store.shards import read_outcomes
from engine.checkpoints.weights import fingerprint
from engine.errors import HermesError, StaleError
from engine.files.atomic import write_file
from engine.files.seals import SEAL, seal
from hermes_cli.reporting.build import build_report, write_report
from hermes_cli.reporting.gallery import read_gallery
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import RunSettings
from hermes_cli.stages.evaluate import eval_origin, evaluated, held_out_source
from train.data.preferences import load_preferences
from train.logging.metrics import read_metrics

ROUND = "round-1"
USES: dict[str, Callable[[Path], object]] = {
    "eval.json": lambda folder: read_gap(folder / "eval.json"),
    "gallery/gallery.json": lambda folder: read_gallery(folder / "gallery"),
    "curate/origin.json": lambda folder: read_origin(folder / "curate"),
    "curate/pairs.jsonl": lambda folder: load_preferences(folder / "curate/pairs.jsonl"),
    "curate/manifest.json": lambda folder: list(read_outcomes(folder / "curate")),
    "curate/candidates/000000.jsonl": lambda folder: list(read_outcomes(folder / "curate")),
    "checkpoint.training/metrics.jsonl": lambda folder: read_metrics(
        folder / "checkpoint.training/metrics.jsonl"
    ),
    "checkpoint/model.safetensors": lambda folder: fingerprint(folder / "checkpoint"),
    "seal.json": lambda folder: read_gap(folder / "eval.json"),
    "curate/seal.json": lambda folder: load_preferences(folder / "curate/pairs.jsonl"),
    "checkpoint/seal.json": lambda folder: fingerprint(folder / "checkpoint"),
}
"""A file of a round -> what reads it."""


def read(use: Callable[[Path], object], folder: Path) -> object:
    try:
        return use(folder)
    except HermesError as error:
        return error


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("damage") / "run")


@given(name=st.sampled_from(sorted(USES)), kind=KINDS)
@settings(max_examples=300, deadline=None)
def test_whoever_reads_a_damaged_file_says_so_in_a_line_or_gets_what_was_written(
    run: Path, name: str, kind: str | tuple[float, int]
) -> None:
    folder = run / ROUND
    whole = USES[name](folder)
    with damaged(folder / name, kind):
        found = read(USES[name], folder)
    if isinstance(found, HermesError):
        assert "\n" not in str(found)
        assert re.search("restore|remove|`hermes|Hermes checkpoint", str(found))
    else:
        assert found == whole or (found is None and kind == "deleted")


@given(name=st.sampled_from(sorted({*USES, "curate/curate.json"} - {"checkpoint/seal.json"})), kind=KINDS)
@settings(max_examples=60, deadline=None)
def test_a_report_of_a_damaged_run_has_the_same_numbers_or_names_what_it_lacks(
    run: Path, name: str, kind: str | tuple[float, int]
) -> None:
    whole = build_report(RunFolder(run, ""))
    with damaged(run / ROUND / name, kind):
        found = build_report(RunFolder(run, ""))
    assert kind == "deleted" or found == whole or len(found.notes) > len(whole.notes)
    for one in found.rounds:
        (same,) = (other for other in whole.rounds if other.round == one.round)
        numbers = [(each.und, each.gen, each.gap, each.by_category) for each in (one, same)]
        assert numbers[0] == numbers[1]


def test_a_hand_that_changes_a_sealed_file_may_say_so(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    pairs = run / ROUND / "curate/pairs.jsonl"
    kept = pairs.read_bytes().splitlines(keepends=True)[:2]
    pairs.write_bytes(b"".join(kept))
    for read in (load_preferences, lambda path: PairHistory([path])):
        with pytest.raises(HermesError, match=r"pairs.jsonl was changed .*remove seal.json there"):
            read(pairs)
    (pairs.parent / SEAL).unlink()
    assert len(load_preferences(pairs)) == 2


def test_an_evaluation_of_other_weights_is_named_and_left_out(tmp_path: Path) -> None:
    """The base's own numbers under another base, as `eval --model` once left them."""
    run = made_run(tmp_path / "run")
    path = run / "round-0/eval.json"
    write_file(path, (run / ROUND / "eval.json").read_bytes())
    seal(path.parent, [path.name])
    found = write_report(RunFolder(run, ""))
    assert [one.round for one in found.rounds] == [1, 2]
    assert any("the evaluation of the base is left out: it is of other weights" in one for one in found.notes)
    assert (found.best, found.rounds[0].verdict) == (None, "not comparable")
    assert not (run / "best.json").exists()


def test_pairs_that_cannot_be_read_are_no_other_settings(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    write_file(run / "run.json", b'{"train": {"steps": 400, "max_epochs": 2.0, "batch_size": 1}}')
    basis = b'{"config": {"steps": 6, "max_epochs": 0.0, "batch_size": 1}, "reference": {}}'
    write_file(run / ROUND / "checkpoint.training/basis.json", basis)
    with damaged(run / ROUND / "curate/pairs.jsonl", "cut"):
        notes = build_report(RunFolder(run, "")).notes
    assert any("pairs.jsonl was changed" in one for one in notes)
    assert not any("was trained with other settings" in one for one in notes)


def measured_again(run: Path, chosen: RunSettings) -> EvalOrigin:
    return eval_origin(RunFolder(run, chosen.model), chosen, held_out_source(chosen))


def test_a_run_is_not_measured_with_another_base_or_on_another_data_set(tmp_path: Path) -> None:
    run, chosen = made_run(tmp_path / "run"), RunSettings()
    with pytest.raises(StaleError, match="this run is of photos, not of shapes; use another --run"):
        measured_again(run, chosen)
    for begun in run.glob("round-*/curate/origin.json"):
        begun.write_bytes(msgspec.json.encode(msgspec.json.decode(begun.read_bytes()) | {"data": "shapes"}))
        seal(begun.parent, [begun.name])
    folder, origin = RunFolder(run, ""), measured_again(run, chosen)
    path = folder.evaluation(0)
    found = read_gap(path)
    assert found
    assert not evaluated(folder, found.config, 0, origin), "it does not say what it was made of"
    for made_of, same in ((origin, True), (msgspec.structs.replace(origin, matcher="other"), False)):
        write_file(path, msgspec.json.encode(msgspec.structs.replace(found, origin=made_of)))
        seal(path.parent, [path.name])
        assert evaluated(folder, found.config, 0, origin) == same
    elsewhere = msgspec.structs.replace(origin, data="photos", annotations="of photos")
    write_file(path, msgspec.json.encode(msgspec.structs.replace(found, origin=elsewhere)))
    seal(path.parent, [path.name])
    with pytest.raises(StaleError, match="this run is of photos, not of shapes; use another --run"):
        measured_again(run, chosen)
    other = made_run(tmp_path / "other")
    (other / "round-0/eval.json").unlink()
    begun = other / ROUND / "curate/origin.json"
    begun.write_bytes(msgspec.json.encode(msgspec.json.decode(begun.read_bytes()) | {"model": "9f"}))
    seal(begun.parent, [begun.name])
    with pytest.raises(StaleError, match=f"this run's base is 9f, .* holds {weights_of(other, 0)}"):
        measured_again(other, chosen)
