"""`python -m benchmarks.gpu --dry`: every stage at its smallest on a CPU, with no claim about time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from benchmarks.gpu import check
from benchmarks.gpu.check import StageResult, setting_of, table
from benchmarks.gpu.place import Place

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
HERE = Place(torch.device("cpu"), dry=True)
UNTAKEN = {
    "parity": {"recorded arrays": "no recorded arrays; name their folder with --golden"},
    "graphs": {"decoding": "needs CUDA"},
}
"""What is not there on a CPU."""
Dry = Callable[[str], StageResult]


@pytest.fixture(scope="module")
def setting() -> str:
    return setting_of(HERE.device, dry=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dry")


@pytest.fixture(scope="module")
def dry(setting: str, folder: Path) -> Dry:
    """A stage's result, read from its file; each runs once."""

    def of(stage: str) -> StageResult:
        if check.stored(folder, stage) is None:
            check.run(stage, HERE, setting, folder)
        result = check.stored(folder, stage)
        assert result is not None
        return result

    return of


def command(*arguments: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command; modules under `path` come before all others."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{path}:{ROOT}"},
    )


@pytest.mark.parametrize(
    "stage", [pytest.param(one, marks=[pytest.mark.slow] * (one == "engine")) for one in check.STAGES]
)
def test_every_stage_takes_its_figures_or_says_why_not(stage: str, dry: Dry, setting: str) -> None:
    if stage == "engine":
        pytest.importorskip("vllm")
    result = dry(stage)
    assert result.setting == setting
    assert {name: one.reason for name, one in result.outcomes.items() if one.reason} == UNTAKEN.get(stage, {})
    assert [*result.outcomes] == [*check.measures(stage)]
    for outcome in result.outcomes.values():
        assert bool(outcome.figures) != bool(outcome.reason)
        assert all(outcome.figures.values())
    assert not check.failed(result)


def test_one_engine_captions_answers_swaps_and_sleeps() -> None:
    pytest.importorskip("vllm")
    found = check.measures("engine")
    outcomes = [check.attempt(found[name], HERE) for name in ("captions and answers", "swap", "sleep")]
    HERE.drop()
    assert [one.reason for one in outcomes] == [""] * 3
    assert outcomes[0].figures["captions, greedy ones as by batched generation"] == (1.0,)
    assert outcomes[1].figures["each checkpoint always captions alike"] == (1.0,)
    assert outcomes[2].figures["level 2, same captions"] == (1.0,)


def test_codes_and_bits_are_compared_and_equal_where_the_device_is_the_cpu(dry: Dry) -> None:
    outcomes = dry("images").outcomes
    shares = [*outcomes["the same codes"].figures.values(), *outcomes["1.3B, bits"].figures.values()]
    shares.append(dry("graphs").outcomes["images"].figures["share of codes unlike"])
    assert shares == [(0.0,)] * 9
    assert dry("tokenizers").outcomes["MAGVIT-v2"].figures["share of codes equal to the CPU's"] == (1.0,)


def test_a_stage_runs_again_only_where_its_file_does_not_hold_for_this_machine_and_code(
    setting: str, tmp_path: Path
) -> None:
    path = check.file_of(tmp_path, "tokenizers")

    def writes(of: str = setting, again: bool = False) -> bool:
        before = path.read_bytes() if path.is_file() else b""
        check.run("tokenizers", HERE, of, tmp_path, again)
        return path.read_bytes() != before

    assert writes()
    assert not writes()
    assert writes(again=True)
    path.write_bytes(path.read_bytes()[:-20])
    assert writes()
    other = f"{setting}0"
    assert writes(other)
    assert not writes(other)


def test_a_stage_that_was_stopped_goes_on_with_what_is_missing(
    dry: Dry, setting: str, tmp_path: Path
) -> None:
    whole = dry("tokenizers")
    part = {"MAGVIT-v2": whole.outcomes["MAGVIT-v2"]}
    path = check.file_of(tmp_path, "tokenizers")
    path.write_bytes(msgspec.json.encode(StageResult("tokenizers", setting, part)))
    found = check.run("tokenizers", HERE, setting, tmp_path).outcomes
    assert found["MAGVIT-v2"] == part["MAGVIT-v2"]
    assert found["CLIP"].figures.keys() == whole.outcomes["CLIP"].figures.keys()


def test_what_breaks_a_measurement_is_its_reason_and_the_stage_has_failed(setting: str) -> None:
    outcome = check.attempt(lambda _: torch.zeros(2) @ torch.zeros(3), HERE)  # type: ignore[arg-type,return-value]
    assert outcome.reason.startswith("failed: RuntimeError: ")
    assert check.failed(StageResult("parity", setting, {"x": outcome}))


def test_recorded_arrays_are_compared_where_they_are_at_hand(setting: str, tmp_path: Path) -> None:
    if not GOLDEN.is_dir():
        pytest.skip("the reference implementation's golden files are not on this machine")
    place = Place(HERE.device, dry=True, golden=GOLDEN)
    figures = check.run("parity", place, setting, tmp_path).outcomes["recorded arrays"].figures
    assert figures["comparisons"] > (50,)
    assert figures["comparisons beyond their tolerance"] == (0.0,)


def test_the_command_runs_the_stages_it_is_told_and_names_a_package_that_they_lack(tmp_path: Path) -> None:
    lacking, to = tmp_path / "lacking", tmp_path / "to"
    lacking.mkdir()
    (lacking / "deepspeed.py").write_text("raise ModuleNotFoundError(name='deepspeed')")
    done = command("--dry", "--to", str(to), "--stage", "training", "graphs", path=lacking)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in to.iterdir()} == {"gpu-training.json", "gpu-graphs.json"}
    rows = done.stdout.splitlines()
    assert "| **training, DeepSpeed**: not run: deepspeed is missing | | |" in rows
    assert "| **graphs, decoding**: not run: needs CUDA | | |" in rows
    assert "logps" not in done.stdout


def test_without_msgspec_one_line_says_so(tmp_path: Path) -> None:
    script = "import sys, runpy; sys.modules['msgspec'] = None; "
    script += "runpy.run_module('benchmarks.gpu', None, '__main__')"
    run = [sys.executable, "-c", script, "--dry", "--to", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "not run: msgspec missing; bring the wheel and run this again\n"


def test_dry_figures_want_a_folder_and_others_a_gpu() -> None:
    assert "--dry needs --to" in command("--dry").stderr
    if torch.version.cuda is None:
        done = command()
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "error: no GPU here; python -m benchmarks.gpu --dry --to DIR runs on a CPU\n"


def test_a_stage_that_cannot_be_imported_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.gpu.graphs", None)
    (name, measure), *others = check.measures("graphs").items()
    assert (name, others) == ("all of it", [])
    assert check.attempt(measure, HERE).reason == "benchmarks.gpu.graphs is missing"


def test_every_stage_can_be_imported_where_little_is_installed() -> None:
    lacking = ("vllm", "deepspeed", "zarr", "ray", "pyarrow", "liger_kernel", "cut_cross_entropy")
    script = f"import sys; sys.modules |= dict.fromkeys({lacking}); from benchmarks.gpu import check; "
    script += "print([one for one in check.STAGES if 'all of it' in check.measures(one)])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


def test_the_table_has_a_line_for_a_stage_that_was_not_run(tmp_path: Path) -> None:
    rows = table(tmp_path).splitlines()
    assert rows[2:] == [f"| **{stage}** | not measured | |" for stage in check.STAGES]


def test_the_table_holds_the_files_figures(dry: Dry, folder: Path) -> None:
    dry("images"), dry("parity")
    rows = table(folder, ["images", "parity"]).splitlines()
    assert rows[0].startswith("A dry run: ")
    assert rows[1].startswith("images, parity: dry: ")
    assert "| tiny, share of codes unlike the CPU form's | 0 |  |" in rows
    assert (
        "| **parity, recorded arrays**: not run: no recorded arrays; name their folder with --golden | | |"
        in rows
    )


def test_the_documented_table_is_that_of_the_committed_files() -> None:
    assert table(ROOT / "benchmarks" / "results") in (ROOT / "docs" / "speed.md").read_text()
