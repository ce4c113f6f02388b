"""Results from folders made by hand: what is in them, what is missing, and how it is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from made_experiment import GRID, evaluation, fill, grid_of, planned
from made_run import save_curation, save_evaluation
from PIL import Image

from benchmarks.experiment.cells import Base, Final
from benchmarks.experiment.collect import collect
from benchmarks.experiment.grid import Grid
from benchmarks.experiment.looks import Looks, settings_key
from benchmarks.experiment.pairing import aligned
from benchmarks.experiment.planning import Plan
from benchmarks.experiment.plots import draw_all
from benchmarks.experiment.results import Results
from benchmarks.experiment.settings import CellSettings, Tree, merge, settle
from benchmarks.experiment.sharing import (
    check_curation,
    share_base,
    share_curation,
    share_reference,
)
from benchmarks.experiment.tables import markdown, put_between
from curate.evaluation.config import EvalConfig
from curate.store.origin import Origin
from engine.checkpoints.weights import fingerprint
from engine.errors import DataError, StaleError
from engine.files.atomic import write_file
from engine.files.layout import resolve_model


@pytest.fixture
def half_done(tmp_path: Path) -> tuple[Grid, Plan, Results]:
    """The base, the default row to its end, and a seed of the other."""
    grid = grid_of(tmp_path)
    found = planned(grid, tmp_path / "to")
    fill(found.measured["base"][0][1], 0, 0)
    for seed, task in found.measured["sum"]:
        fill(task, seed, 2)
    fill(found.measured["und"][0][1], 0, 1)
    return grid, found, collect(grid, found, Looks(tmp_path / "looks.json"), final=False)


def test_gains_are_over_the_base_and_over_the_round_before(half_done: tuple[Grid, Plan, Results]) -> None:
    *_, results = half_done
    rows = {row.name: row for row in results.rows}
    first, last = rows["sum"].rounds[1:]
    # Of 8 answers an item: seed 0 gains 1 a round, seed 1 half an answer more on average.
    assert first.gen_gain == pytest.approx((1 + 1.5) / 2 / 8)
    assert last.gen_gain == pytest.approx((2 + 2.5) / 2 / 8)
    assert last.since_previous is not None
    assert last.since_previous.gen == pytest.approx(1 / 8)
    assert last.since_previous.gen_ci == pytest.approx((1 / 8, 1 / 8))
    assert first.und_gain == 0
    base = rows["base"].rounds[0]
    assert base.gap == pytest.approx(3 / 4 - 2 / 8)
    assert last.gap_cut == pytest.approx(1 - last.gap / base.gap, abs=1e-5)
    assert last.gap_cut_ci is not None
    assert last.gap_cut_ci[0] < last.gap_cut < last.gap_cut_ci[1]
    assert {seed: one.gen for seed, one in last.by_seed.items()} == {"0": 4 / 8, "1": 4.5 / 8}
    assert last.pairs is not None
    assert last.pairs.captions == 3
    assert last.trained is not None
    assert last.trained.caption_margin == 0.25
    assert last.trained.image_margin is None


def test_rows_that_are_not_complete_are_marked_and_compared_where_they_can_be(
    half_done: tuple[Grid, Plan, Results],
) -> None:
    grid, found, results = half_done
    rows = {row.name: row for row in results.rows}
    assert [rows[name].complete for name in ("base", "sum", "und")] == [True, True, False]
    assert rows["und"].rounds[1].seeds == (0,)
    assert rows["und"].rounds[1].versus_default is None
    fill(found.measured["und"][1][1], 1, 1)
    again = collect(grid, found, Looks(Path("nowhere.json")), final=False)
    versus = again.rows[2].rounds[1].versus_default
    assert versus is not None
    assert (versus.und, versus.gen) == (0, 0)


def test_the_summary_tells_of_the_default_rows_last_round_and_reads_back(
    half_done: tuple[Grid, Plan, Results],
) -> None:
    *_, results = half_done
    assert results.summary is not None
    last = results.rows[1].rounds[-1]
    assert (results.summary.rounds, results.summary.seeds) == (2, (0, 1))
    assert results.summary.gen_gain_ci == last.gen_gain_ci
    assert (results.summary.split, results.summary.looks) == ("validation", 0)
    assert msgspec.json.decode(msgspec.json.encode(results), type=Results) == results
    assert "NaN" not in json.dumps(msgspec.to_builtins(results))


BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def test_tables_have_a_line_a_round_and_go_between_the_markers(half_done: tuple[Grid, Plan, Results]) -> None:
    *_, results = half_done
    text = markdown(results)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 1 + 2 + 1
    assert "| **sum** | 2 | 0.750 | 0.531 |" in text
    assert "1 (1 of 2 seeds)" in text
    page = put_between(f"head\n{BEGIN}\nold\n{END}\ntail\n", text)
    assert page.startswith("head\n")
    assert page.endswith("tail\n")
    assert "old" not in page
    assert put_between(page, text) == page
    other = page.replace("results:", "levers:") + page
    assert put_between(other, "new", "levers").endswith(page)
    for broken in ("none", f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"):
        with pytest.raises(DataError, match="has not one"):
            put_between(broken, text)


def test_the_page_of_the_method_has_its_markers() -> None:
    page = (Path(__file__).parents[2] / "docs/method.md").read_text()
    for section in ("results", "levers"):
        assert f"begin -->\n{section} here\n<!--" in put_between(page, f"{section} here", section)


def test_pictures_are_drawn_of_what_there_is(half_done: tuple[Grid, Plan, Results], tmp_path: Path) -> None:
    *_, results = half_done
    paths = draw_all(results, tmp_path / "images")
    assert [path.name for path in paths] == [
        "experiment-gains.png",
        "experiment-sides.png",
        "experiment-gap.png",
    ]
    for path in paths:
        with Image.open(path) as picture:
            # Whole inches of a phone's width: narrower than a page, so that its text keeps its size.
            assert 700 < picture.width < 1000
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    one_round = [msgspec.structs.replace(row, rounds=row.rounds[:2]) for row in results.rows]
    short = msgspec.structs.replace(results, rows=tuple(one_round))
    assert [path.name for path in draw_all(short, tmp_path / "short", "levers")] == ["levers-gains.png"]
    nothing = msgspec.structs.replace(results, rows=results.rows[:1])
    assert draw_all(nothing, tmp_path / "none") == []


def test_the_evaluation_split_counts_for_the_weights_that_were_trained(
    half_done: tuple[Grid, Plan, Results], tmp_path: Path
) -> None:
    grid, _, _ = half_done
    found = planned(grid, tmp_path / "to", final=True)
    seed, task = found.measured["sum"][0]
    assert isinstance(task, Final)
    assert not task.has(1)
    fill(task, seed, 2)
    assert task.done()
    rows = [(3, 2, 4)] * 20
    save_evaluation(task.folder, 2, evaluation("others", rows, task.settings.eval))
    assert task.has(1)
    assert not task.has(2)


def test_a_final_measurement_looks_at_the_cells_weights_through_links(
    half_done: tuple[Grid, Plan, Results], tmp_path: Path
) -> None:
    grid, _, _ = half_done
    found = planned(grid, tmp_path / "to", final=True)
    task = found.measured["sum"][0][1]
    assert isinstance(task, Final)
    base = next(one for one in found.tasks if one.folder == task.base)
    assert isinstance(base, Base)
    fill(base, 0, 0)
    task.prepare()
    task.prepare()
    assert (task.folder / "round-2/checkpoint/model.safetensors").read_bytes() == b"weights"
    assert (task.folder / "round-2/checkpoint").is_symlink()
    assert 'eval.split = "evaluation"' in (task.folder / "config.toml").read_text()


def test_a_second_look_under_other_settings_is_refused_unless_asked_for(tmp_path: Path) -> None:
    grid, path = grid_of(tmp_path), tmp_path / "looks.json"
    row = grid.find("sum")
    Looks(path).enter(grid, row, "2024-05-01")
    looks = Looks(path)
    looks.require(grid, grid.row, again=False)
    looks.enter(grid, row, "2024-05-02")
    assert [one.date for one in Looks(path).of(grid, row)] == ["2024-05-01"]
    other = grid_of(tmp_path, GRID + "[defaults.train]\nsteps = 7\n")
    assert settings_key(other, other.find("base")) == settings_key(grid, grid.find("base"))
    with pytest.raises(StaleError, match="row sum was looked at on the evaluation split on 2024-05-01"):
        looks.require(other, other.row, again=False)
    looks.require(other, other.row, again=True)
    looks.enter(other, other.find("sum"), "2024-05-03")
    assert len(Looks(path).of(grid, row)) == 2
    looks.require(grid, grid.row, again=False)
    unseen = grid_of(tmp_path, GRID + "[defaults.train]\nsteps = 8\n[final]\nseed = 9\n")
    assert not Looks(path).of(unseen, unseen.find("sum"))
    looks.require(unseen, unseen.row, again=False)
    path.write_text("[1]")
    with pytest.raises(DataError, match="not a list of looks"):
        Looks(path)


def test_measurements_are_compared_on_the_items_that_all_have(tmp_path: Path) -> None:
    config = EvalConfig()
    first = evaluation("a", [(1, 1, 2), (2, 2, 2), (0, 3, 2), (1, 1, 1)], config)
    second = evaluation("b", [(2, 2, 2), (2, 2, 3), (1, 3, 2)], config)
    one, other = aligned([first, second])
    assert one.und.shape == other.gen.shape == (1, 2)
    assert one.und.mean() == pytest.approx(1 / 4)
    with pytest.raises(DataError, match="fewer than two items"):
        aligned([first, evaluation("c", [(1, 1, 2)], config)])


@pytest.fixture
def shared(tmp_path: Path) -> tuple[Path, CellSettings]:
    """A run's curation of three items, and the settings it was made under."""
    settings = settle({"curate": {"n": 2, "limit": 3, "similarity": "minilm"}}, "here")
    run, config = tmp_path / "shared", settings.curate
    save_curation(run, 1)
    origin = Origin(
        model=fingerprint(resolve_model("")),
        precision="float32",
        data="shapes",
        round=1,
        seed=0,
        n=2,
        captions=[],
        image=msgspec.to_builtins(config.image),
        answer=msgspec.to_builtins(config.answer),
        similarity="minilm",
    )
    write_file(run / "round-1/curate/origin.json", msgspec.json.encode(origin))
    write_file(run / "round-1/curate/lock", b"7")
    write_file(
        run / "run.json", msgspec.json.encode({**msgspec.to_builtins(settings), "later": {"field": 1}})
    )
    return run, settings


def test_a_curation_is_shared_by_links_and_its_lock_is_not(
    shared: tuple[Path, CellSettings], tmp_path: Path
) -> None:
    source, settings = shared
    run = tmp_path / "run"
    share_curation(source, run, settings)
    share_curation(source, run, settings)
    ours, theirs = (one / "round-1/curate/pairs.jsonl" for one in (run, source))
    assert ours.stat().st_ino == theirs.stat().st_ino
    assert not (run / "round-1/curate/lock").exists()
    # What is written again, as all of Hermes writes, leaves the other folder as it was.
    write_file(ours, b"other\n")
    assert theirs.read_bytes() != b"other\n"
    with pytest.raises(StaleError, match="differs from"):
        share_curation(source, run, settings)


def test_a_curation_from_before_the_sampler_was_the_engines_is_shared(
    shared: tuple[Path, CellSettings], tmp_path: Path
) -> None:
    source, settings = shared
    path = source / "run.json"
    early = json.loads(path.read_text())
    early["curate"]["caption"]["sampler"] = "branched"
    path.write_text(json.dumps(early))
    share_curation(source, tmp_path / "run", settings)
    early["curate"]["caption"]["sampler"] = "paged"
    path.write_text(json.dumps(early))
    with pytest.raises(StaleError, match=r"under other settings \(curate\)"):
        check_curation(source, settings)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"seed": 4}, "seed"),
        ({"engine": {"dtype": "bfloat16"}}, "dtype"),
        ({"curate": {"n": 3}}, "curate, origin's n"),
        ({"curate": {"limit": 4}}, "curate, rows"),
        ({"curate": {"image": {"steps": 3}}}, "curate, origin's image"),
        ({"curate": {"threshold": 0.5}}, "curate"),
    ],
)
def test_a_curation_under_other_settings_is_not_shared(
    shared: tuple[Path, CellSettings], tmp_path: Path, tree: Tree, said: str
) -> None:
    source, settings = shared
    wanted = settle(merge(msgspec.to_builtins(settings), tree), "here")
    with pytest.raises(StaleError) as caught:
        share_curation(source, tmp_path / "run", wanted)
    assert f"under other settings ({said}" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "said"), [("model", "others", "weights"), ("round", 2, "round"), ("seed", 9, "seed")]
)
def test_a_curation_of_other_weights_is_not_shared_whatever_its_settings_say(
    shared: tuple[Path, CellSettings], tmp_path: Path, field: str, value: object, said: str
) -> None:
    source, settings = shared
    path = source / "round-1/curate/origin.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(StaleError, match=said):
        share_curation(source, tmp_path / "run", settings)
    path.write_text("{}")
    with pytest.raises(DataError, match="not a finished curation"):
        check_curation(source, settings)


def test_a_base_under_other_settings_is_replaced_and_a_reference_is_not(tmp_path: Path) -> None:
    rows = [(1, 1, 2)] * 4
    wanted = EvalConfig(images=2, limit=4)
    save_evaluation(tmp_path / "base", 0, evaluation("b", rows, wanted))
    save_evaluation(tmp_path / "run", 0, evaluation("b", rows, EvalConfig(images=2, limit=9)))
    share_base(tmp_path / "base", tmp_path / "run", wanted)
    ours, theirs = (tmp_path / name / "round-0/eval.json" for name in ("run", "base"))
    assert ours.read_bytes() == theirs.read_bytes()
    for name, text in (("base", "theirs"), ("run", "ours")):
        store = tmp_path / name / "round-1/reference.zarr"
        store.mkdir(parents=True)
        (store / "zarr.json").write_text(text)
    share_reference(tmp_path / "base", tmp_path / "run")
    assert (tmp_path / "run/round-1/reference.zarr/zarr.json").read_text() == "ours"
    shutil.rmtree(tmp_path / "run/round-1")
    share_reference(tmp_path / "base", tmp_path / "run")
    assert (tmp_path / "run/round-1/reference.zarr/zarr.json").read_text() == "theirs"
