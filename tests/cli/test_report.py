"""`hermes report` as a user types it, on runs made by hand."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_run import made_run, measured, save_evaluation, weights_of
from page_elements import Elements
from typer.testing import CliRunner

from curate.evaluation.clustered import Estimate
from curate.evaluation.paired import Difference
from engine.files.seals import SEAL
from hermes_cli.main import app
from hermes_cli.pages.charts import Axis, axis
from hermes_cli.recipes import DEFAULT
from hermes_cli.reporting.reproduce import assignment, flat_settings, run_command
from hermes_cli.reporting.verdict import round_verdict
from hermes_cli.settings import RunSettings, merge, parse_assignment, settle


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_run(tmp_path / "run")


def report(run: Path, *arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["report", str(run), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def numbers(run: Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text())  # type: ignore[no-any-return]


def test_the_numbers_are_those_of_the_evaluations(run: Path) -> None:
    report(run)
    found = numbers(run)
    for number, one in enumerate(found["rounds"]):
        part = json.loads((run / f"round-{number}/eval.json").read_text())
        for name in (
            "und",
            "und_se",
            "gen",
            "gen_se",
            "gap",
            "gap_se",
            "by_category",
            "by_kind",
            "fingerprint",
        ):
            assert one[name] == part[name], name
        assert one["round"] == number
    assert found["rounds"][1]["pairs"] == {"captions": 3, "images": 3, "image_ties": 0}
    assert found["settings"] == {"seed": 3, "train": {"steps": 4, "warmup": 1}}


def test_rounds_are_compared_with_the_last_and_with_the_base_by_item(run: Path) -> None:
    report(run)
    _, first, second = numbers(run)["rounds"]
    # 19 items gain 2 of 6 answers and one gains 1; then 19 lose 3 and one loses 2.
    assert first["versus_base"]["gen"]["value"] == pytest.approx(39 / 120)
    assert first["versus_base"]["gen"]["se"] == pytest.approx(
        ((19 * (0.05 / 120) ** 2 + (0.95 / 120) ** 2) * 20 / 19) ** 0.5
    )
    assert first["versus_base"] == first["versus_previous"]
    assert second["versus_previous"]["gen"]["value"] == pytest.approx(-59 / 120)
    assert second["versus_base"]["und"]["value"] == pytest.approx(1 / 60)
    assert second["versus_base"]["gap"]["value"] == pytest.approx(1 / 60 + 20 / 120)


def test_a_round_that_lost_is_called_worse_and_the_best_is_marked(run: Path) -> None:
    printed = report(run)
    found = numbers(run)
    assert [one["verdict"] for one in found["rounds"]] == ["", "better", "worse"]
    assert found["best"] == 1
    assert json.loads((run / "best.json").read_text())["checkpoint"] == "round-1/checkpoint"
    assert "round 2 is worse than round 1: generation fell by 0.492" in printed
    assert "best: round 1 (*)" in printed
    page = (run / "report.html").read_text()
    assert "Round 1 is the best" in page
    assert 'class="verdict worse"' in page
    assert "generation fell by 0.492" in page


def change(und: float, gen: float, gap: float, se: float = 0.01) -> Difference:
    sides = {
        name: Estimate(value=value, se=se, count=9)
        for name, value in (("und", und), ("gen", gen), ("gap", gap))
    }
    return Difference(items=9, **sides)


@pytest.mark.parametrize(
    ("moved", "word"),
    [
        ((0.0, 0.05, -0.05), "better"),
        ((0.0, 0.015, -0.015), "no clear change"),
        ((0.0, 0.0, 0.0), "no clear change"),
        ((0.015, 0.0, 0.015), "no clear change"),
        ((0.05, 0.0, 0.05), "worse"),
        ((-0.015, 0.0, -0.015), "no clear change"),
        ((0.0, -0.015, 0.015), "no clear change"),
        ((-0.05, 0.0, -0.05), "worse"),
        ((-0.05, -0.05, 0.0), "worse"),
    ],
)
def test_the_word_for_a_change_follows_its_errors(moved: tuple[float, float, float], word: str) -> None:
    assert round_verdict(change(*moved))[0] == word


def test_the_base_is_best_where_a_smaller_gap_costs_understanding(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    save_evaluation(run, 0, measured(weights_of(run, 0), [(3, 2, 3)] * 20))
    save_evaluation(run, 1, measured(weights_of(run, 1), [(1, 2, 3)] * 19 + [(2, 2, 3)]))
    report(run)
    found = numbers(run)
    assert found["rounds"][1]["gap"] < found["rounds"][0]["gap"]
    assert found["best"] == 0
    assert found["rounds"][1]["verdict"] == "worse"
    assert "The base is still the best" in (run / "report.html").read_text()


def test_the_page_holds_all_parts_and_nothing_from_elsewhere(run: Path, tmp_path: Path) -> None:
    assert "page.html" in report(run, "--to", tmp_path / "page.html")
    assert not (run / "report.html").exists()
    text = (tmp_path / "page.html").read_text()
    elements = Elements(text)
    names = [name for name, _ in elements.found]
    assert names.count("svg") == 2 + 4
    assert names.count("article") == 3
    assert names.count("script") == names.count("style") == 1
    # A real image and one of each round in the gallery; a real image and two candidates on each card.
    assert names.count("img") == 4 + 3 * 3
    assert all(source.startswith("data:image/png;base64,") for source in elements.sources)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    for part in (
        "Round by round",
        "The same prompts",
        "Where the gap is",
        "Training",
        "Candidates of round 2",
    ):
        assert part in text
    for number in range(3):
        assert weights_of(run, number) in text


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title></svg><!-- & &amp; \x1b[2J \u202e",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_an_element_or_an_attribute(tmp_path: Path, text: str) -> None:
    pages = []
    for name, said in (("plain", "a plain text"), ("hostile", text)):
        run = made_run(tmp_path / name / "run", said)
        report(run)
        pages.append((run / "report.html").read_text())
    assert Elements(pages[1]).found == Elements(pages[0]).found
    assert pages[1].count("<script") == 1


def test_two_runs_of_the_same_settings_differ_in_times_alone(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name / "run", seconds=seconds) for name, seconds in (("a", 1.0), ("b", 7.0))]
    found = []
    for run in runs:
        report(run)
        one = numbers(run)
        times = one["times"]
        assert times == ["seconds", "stages", "throughput"]
        for each in one["rounds"]:
            assert all(name in each for name in times)
        found.append(one)
    assert found[0] != found[1]
    for one in found:
        for each in one["rounds"]:
            for name in times:
                del each[name]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("round-1/eval.json", "Round 1 has not been evaluated: run <code>hermes eval --run"),
        ("round-2/checkpoint.training", "steps of 1 round"),
        ("round-0/gallery", "The same prompts, round by round"),
        ("round-1/curate", "Candidates of round 2"),
        ("events.jsonl", "Candidates of round 2"),
    ],
)
def test_a_missing_part_is_said_and_is_no_error(run: Path, missing: str, said: str) -> None:
    path = run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    report(run)
    assert said in (run / "report.html").read_text()


def test_a_run_that_has_only_begun_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert "the base has not been evaluated" in report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "No round has been measured" in text
    for command in ("hermes eval", "hermes train", "hermes curate"):
        assert command in text
    assert numbers(tmp_path)["best"] is None


def test_an_early_evaluation_without_items_is_not_compared_and_that_is_said(run: Path) -> None:
    path = run / "round-1/eval.json"
    old = json.loads(path.read_text())
    del old["per_item"]
    path.write_text(json.dumps(old))
    (path.parent / SEAL).unlink()
    printed = report(run)
    assert "note: round 1 is not compared with the base: it was measured without keeping the items" in printed
    found = numbers(run)
    assert [one["verdict"] for one in found["rounds"]] == ["", "not comparable", "not comparable"]
    assert found["rounds"][1]["versus_base"] is None
    assert found["rounds"][2]["versus_base"] is not None
    assert found["best"] == 0


def test_a_torn_metrics_file_and_a_torn_picture_leave_the_rest(run: Path) -> None:
    with (run / "round-2/checkpoint.training/metrics.jsonl").open("ab") as lines:
        lines.write(b'{"step": 5, "lo')
    (run / "round-2/checkpoint.training" / SEAL).unlink()
    (run / "round-1/gallery/00.png").write_bytes(b"no picture")
    report(run)
    text = (run / "report.html").read_text()
    assert "line 5: not a training step" in text
    assert "4 steps of 1 round" in text


def test_rounds_of_other_settings_or_imported_pairs_are_named(run: Path) -> None:
    basis = {"config": {"steps": 9, "warmup": 1}, "reference": {}}
    (run / "round-1/checkpoint.training/basis.json").write_text(json.dumps(basis))
    (run / "round-2/curate/imported.json").write_text("{}")
    printed = report(run)
    assert "round 1 was trained with other settings: train.steps was 9" in printed
    assert "the pairs of round 2 were imported" in printed


def test_a_round_that_was_curated_otherwise_or_from_other_weights_is_named(run: Path) -> None:
    path = run / "round-1/curate/curate.json"
    summary = json.loads(path.read_text()) | {"pairing": {"rules": "official", "threshold": 0.6}}
    path.write_text(json.dumps(summary))
    (path.parent / SEAL).unlink()
    basis = {"config": {}, "reference": {"weights": "gone"}, "start": "gone"}
    (run / "round-1/checkpoint.training/basis.json").write_text(json.dumps(basis))
    printed = report(run)
    wanted = (
        'round 1 was curated with other settings: seed was 0, curate.n was 2, curate.rules was "official"'
    )
    assert wanted in printed
    assert "threshold was" not in printed
    assert f"it started from the weights gone, which are now {weights_of(run, 0)}" in printed
    assert "reference.policy was" not in printed
    tree = json.loads((run / "run.json").read_text()) | {"seed": 0, "curate": {"n": 2, "rules": "official"}}
    (run / "run.json").write_text(json.dumps(tree))
    assert "curated with other settings" not in report(run)


def test_the_device_that_auto_has_found_is_no_other_setting(run: Path) -> None:
    tree = json.loads((run / "run.json").read_text())
    for device, named in (("auto", False), ("cuda", True)):
        tree["train"]["device"] = device
        (run / "run.json").write_text(json.dumps(tree))
        basis = {"config": {"device": "cpu"}, "reference": {}}
        (run / "round-1/checkpoint.training/basis.json").write_text(json.dumps(basis))
        assert ('round 1 was trained with other settings: train.device was "cpu"' in report(run)) == named


def test_steps_that_a_rounds_pairs_leave_are_its_settings(run: Path) -> None:
    """Three pairs, each visited twice at most, are six steps of one."""
    tree = json.loads((run / "run.json").read_text())
    tree["train"] |= {"steps": 400, "max_epochs": 2.0, "batch_size": 1}
    (run / "run.json").write_text(json.dumps(tree))
    for number, steps in ((1, 6), (2, 5)):
        basis = {"config": {"steps": steps, "max_epochs": 0.0, "batch_size": 1}, "reference": {}}
        (run / f"round-{number}/checkpoint.training/basis.json").write_text(json.dumps(basis))
    printed = report(run)
    assert "round 1 was trained with other settings" not in printed
    assert "round 2 was trained with other settings: train.steps was 5" in printed
    assert "max_epochs was" not in printed


def test_the_command_leads_to_the_same_settings(run: Path) -> None:
    report(run)
    (command,) = numbers(run)["commands"]
    words = shlex.split(command)
    assert words[:6] == ["hermes", "run", "--rounds", "2", "--run", "runs/again"]
    tree: dict[str, Any] = DEFAULT
    for flag, text in zip(words[6::2], words[7::2], strict=True):
        assert flag == "--set"
        tree = merge(tree, parse_assignment(text))
    assert settle(tree) == settle(json.loads((run / "run.json").read_text()))


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)


@given(VALUES)
def test_a_setting_survives_the_shell_and_toml(value: Any) -> None:
    flag, text = shlex.split(assignment("curate.thing", value))
    assert flag == "--set"
    assert flat_settings(parse_assignment(text)) == {"curate.thing": value}


def test_the_defaults_need_no_settings() -> None:
    assert run_command(msgspec.to_builtins(settle(DEFAULT)), 1) == "hermes run --rounds 1 --run runs/again"
    told = run_command(msgspec.to_builtins(RunSettings()), 1)
    assert "--set train.batch_size=4" in told


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9))
def test_an_axis_holds_its_values_between_even_ticks(values: list[float]) -> None:
    scale = axis(values)
    step = scale.ticks[1] - scale.ticks[0]
    assert scale.low <= min(values) + 1e-9 * step
    assert scale.high >= max(values) - 1e-6 * step
    assert 1 <= len(scale.ticks) - 1 <= 7
    gaps = [b - a for a, b in zip(scale.ticks, scale.ticks[1:], strict=False)]
    assert gaps == pytest.approx([step] * len(gaps))


def test_what_is_higher_stands_higher() -> None:
    scale = Axis(ticks=(0.0, 0.5, 1.0))
    assert (scale.height(0), scale.height(0.25), scale.height(1)) == (100, 75, 0)
    assert [scale.label(one) for one in scale.ticks] == ["0.0", "0.5", "1.0"]


def test_error_bars_are_as_long_as_their_errors(run: Path) -> None:
    report(run)
    text = (run / "report.html").read_text()
    bars = re.findall(
        r'<line class="ink (whisker|error)" x1="[\d.]+" y1="([\d.]+)" x2="[\d.]+" y2="([\d.]+)"', text
    )
    lengths = {
        name: {round(float(low) - float(high), 2) for kind, high, low in bars if kind == name}
        for name in ("whisker", "error")
    }
    assert len(bars) == 6
    (whisker,), (error,) = lengths["whisker"], lengths["error"]
    assert whisker == pytest.approx(2 * error, abs=0.02)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_no_run_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "hermes_cli.main", "report", str(tmp_path / name)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("hermes: ")
    assert "no run in this folder" in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not list((tmp_path / "empty").iterdir())


def test_what_was_judged_once_is_kept_until_its_candidates_change(run: Path) -> None:
    report(run)
    kept = run / "round-1/agreement.json"
    before = kept.read_bytes(), kept.stat().st_mtime_ns
    report(run)
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == before
    with (run / "round-1/curate/pairs.jsonl").open("ab") as pairs:
        pairs.write((run / "round-1/curate/pairs.jsonl").read_bytes().splitlines(keepends=True)[0])
    report(run)
    assert kept.read_bytes() != before[0]


def test_the_report_shows_what_a_round_was_trained_from_and_held_against(run: Path) -> None:
    base, first = weights_of(run, 0), weights_of(run, 1)
    basis = {"config": {}, "reference": {"weights": base}}
    for number, start in ((1, ""), (2, first)):
        path = run / f"round-{number}/checkpoint.training/basis.json"
        path.write_text(json.dumps({**basis, "start": start}))
    report(run)
    found = [(one["started_from"], one["reference"]) for one in numbers(run)["rounds"]]
    assert found == [("", ""), (base, base), (first, base)]
    page = (run / "report.html").read_text()
    rows = dict(re.findall(r"<tr><th>([^<]*)</th><td>([^<]*)</td></tr>", page))
    assert rows["reference, round 2"] == f"{base} (base)"
    assert rows["started from, round 2"] == f"{first} (round 1)"
    assert any("round 2" in note and "reference.policy was base" in note for note in numbers(run)["notes"])
    (run / "run.json").write_text(json.dumps({"reference": {"policy": ["previous", "base"]}}))
    report(run)
    assert not any("reference.policy" in note for note in numbers(run)["notes"])
