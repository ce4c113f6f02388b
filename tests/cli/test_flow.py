"""The commands as a user types them, in an empty directory, on the embedded model and world."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from PIL import Image
from typer.testing import CliRunner

from curate.store.outcomes import Sampled
from curate.store.shards import locked, read_outcomes
from engine.checkpoints.swap_probe import PROBES
from engine.checkpoints.weights import fingerprint
from engine.errors import BusyError, HermesError
from hermes_cli.main import app
from hermes_cli.run.event_log import read_events

SMALL = ("--set", "curate.chunk=4", "--set", "train.steps=6", "--set", "train.warmup=1")
SAME = ("--set", "curate.fresh_prompts=false")
"""Round 2 curates the items of round 1, so that Eq. 10 has what to mix."""


STAGES = ("curate", "reference", "train", "eval")
AGAIN = ("run", "--rounds", "2", "--n", "8")


def log_of(run: Path) -> list[tuple[int, str, str]]:
    events = read_events(run / "events.jsonl")
    return [(one.round, one.stage, one.event) for one in events if one.event != "progress"]


HIDING = (
    *("engine", "curate", "train", "hermes_cli", "benchmarks", "torch", "vllm", "deepspeed", "ray", "numpy"),
    *("msgspec", "zarr", "json", "types", "random", "multiprocessing", "inspect", "logging", "typer"),
)
"""Names of files that a user may have where she types."""


def full_of_names(cwd: Path) -> Path:
    """A folder whose files end whatever process imports one of them."""
    for name in HIDING:
        (cwd / f"{name}.py").write_text(f"import os\nos.write(2, b'{name}.py runs')\nos._exit(3)\n")
    return cwd


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("hermes")), *arguments]


def hermes(cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Two rounds, command by command; the folder and what each command printed."""
    cwd = full_of_names(tmp_path_factory.mktemp("user"))
    printed = [
        hermes(cwd, "curate", "--n", "8", "--limit", "8", *SMALL, *SAME),
        hermes(cwd, "train"),
        hermes(cwd, "eval", "--limit", "12"),
        hermes(cwd, "curate", "--n", "8", "--round", "2"),
        hermes(cwd, "train", "--round", "2"),
        hermes(cwd, "eval"),
    ]
    return cwd / "runs/default", printed


def test_the_commands_of_two_rounds_leave_what_they_promise(steps: tuple[Path, list[str]]) -> None:
    run, printed = steps
    assert "8 items" in printed[0]
    assert "candidate sheet" in printed[0]
    assert "understanding" in printed[2]
    report = json.loads((run / "report.json").read_text())
    assert [one["round"] for one in report["rounds"]] == [0, 1, 2]
    assert {one["judge"] for one in report["rounds"]} == {"pixel oracle"}
    for one in report["rounds"]:
        assert {"und", "und_se", "gen", "gen_se", "gap", "by_category", "pairs", "seconds"} <= one.keys()
        assert one["gap"] == pytest.approx(one["und"] - one["gen"])
        assert set(one["by_category"]) == {
            "single_object", "two_object", "counting", "colors", "position", "color_attr",
        }  # fmt: skip
    assert report["rounds"][1]["pairs"]["images"] > 0


def test_rounds_are_compared_by_item_and_generate_the_same_prompts(steps: tuple[Path, list[str]]) -> None:
    run, printed = steps
    found = json.loads((run / "report.json").read_text())
    items = [json.loads((run / f"round-{n}/eval.json").read_text())["per_item"] for n in range(3)]
    assert [[one["id"] for one in side] for side in items] == [[one["id"] for one in items[0]]] * 3
    for number in (1, 2):
        one = found["rounds"][number]
        before = found["rounds"][number - 1]
        assert one["versus_previous"]["items"] == 12
        for name in ("und", "gen", "gap"):
            assert one["versus_previous"][name]["value"] == pytest.approx(one[name] - before[name])
        assert one["agreement"]["items"] == 8
        assert one["verdict"]
        assert f"round {number} {'shows' if one['verdict'] == 'no clear change' else 'is'} " in printed[5]
    galleries = [json.loads((run / f"round-{n}/gallery/gallery.json").read_text()) for n in range(3)]
    assert [one["fingerprint"] for one in galleries] == [one["fingerprint"] for one in found["rounds"]]
    prompts = [[(one["prompt"], one["seed"]) for one in each["images"]] for each in galleries]
    assert prompts[0] == prompts[1] == prompts[2]
    assert len(prompts[0]) == 6
    with Image.open(run / "round-2/gallery/05.png") as picture:
        assert picture.size == (48, 48)
    page = (run / "report.html").read_text()
    assert page.count("<img") > 6 * 4
    assert "Does the judge choose well?" in page


def test_a_finished_run_has_nothing_at_work(steps: tuple[Path, list[str]]) -> None:
    run, _ = steps
    found = json.loads(hermes(run, "status", str(run), "--json"))
    assert [one["state"] for each in found["rounds"] for one in each["stages"]] == ["done"] * 9
    counts = {one["stage"]: (one["done"], one["total"]) for one in found["rounds"][1]["stages"]}
    assert counts == {"curate": (8, 8), "reference": (8, 8), "train": (6, 6), "eval": (12, 12)}


def test_each_round_trains_new_weights_from_the_last(steps: tuple[Path, list[str]]) -> None:
    run, _ = steps
    report = json.loads((run / "report.json").read_text())
    prints = [one["fingerprint"] for one in report["rounds"]]
    assert len(set(prints)) == 3
    for number in (1, 2):
        assert fingerprint(run / f"round-{number}/checkpoint") == prints[number]
        origin = json.loads((run / f"round-{number}/curate/origin.json").read_text())
        assert origin["model"] == prints[number - 1]
        assert "@" in origin["similarity"]
        assert origin["judge"] is None


def rank(candidate: dict[str, float]) -> tuple[float, float]:
    """What candidates are compared by; captions have no likelihood."""
    return candidate["score"], candidate.get("likelihood", 0.0)


def test_generated_images_have_likelihoods_and_equal_scores_are_marked(steps: tuple[Path, list[str]]) -> None:
    run, _ = steps
    folder = run / "round-1/curate"
    images = [
        image
        for outcome in read_outcomes(folder)
        if isinstance(outcome, Sampled)
        for image in msgspec.to_builtins(outcome.item)["images"]
    ]
    assert all(image["likelihood"] <= 0 for image in images)
    by_score = {
        right: [i["likelihood"] for i in images if (i["score"] == 1) == right] for right in (True, False)
    }
    assert sum(by_score[True]) / len(by_score[True]) > sum(by_score[False]) / len(by_score[False])
    pairs = [json.loads(line)["images"] for line in (folder / "pairs.jsonl").read_text().splitlines()]
    for pair in filter(None, pairs):
        assert rank(pair["win"]) > rank(pair["lose"])
        assert pair.get("tie", False) == (pair["win"]["score"] == pair["lose"]["score"])
    report = json.loads((run / "report.json").read_text())["rounds"][1]["pairs"]
    assert report["image_ties"] == sum(bool(pair and pair.get("tie")) for pair in pairs)


def test_round_two_pairs_follow_equation_10(steps: tuple[Path, list[str]]) -> None:
    run, _ = steps
    rounds = [
        [json.loads(line) for line in (run / f"round-{number}/curate/pairs.jsonl").read_text().splitlines()]
        for number in (1, 2)
    ]
    before = {pair["id"]: pair for pair in rounds[0]}
    checked = 0
    for pair in rounds[1]:
        for side in ("captions", "images"):
            old, new = before[pair["id"]][side], pair[side]
            if old and new:
                # The default recipe takes no ties, whatever likelihood says.
                beaten = new["win"]["score"] > old["win"]["score"]
                assert new["lose"] == (old["win"] if beaten else old["lose"])
                assert new["lose_round"] == 1
                checked += 1
    assert checked > 0


def test_people_get_pictures(steps: tuple[Path, list[str]]) -> None:
    run, _ = steps
    with Image.open(run / "round-1/curate/sheet.png") as sheet:
        assert sheet.width > 900
        assert len(sheet.getcolors(1 << 24)) > 100
    with Image.open(run / "round-1/training.png") as curves:
        assert curves.width > 1000
    assert list((run / "round-1/curate/images").glob("*/win.png"))


def test_a_finished_stage_is_not_done_again(steps: tuple[Path, list[str]]) -> None:
    run, _ = steps
    kept = {
        name: (run / name).stat().st_mtime_ns
        for name in ("round-1/checkpoint/model.safetensors", "round-1/eval.json")
    }
    hermes(run.parents[1], "train")
    assert "starting the engine" not in hermes(run.parents[1], "eval")
    assert kept == {name: (run / name).stat().st_mtime_ns for name in kept}


def test_other_settings_in_a_curated_folder_are_refused(steps: tuple[Path, list[str]]) -> None:
    run, _ = steps
    done = subprocess.run(
        command("curate", "--n", "4", "--run", str(run)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "n 8 -> 4" in done.stderr
    assert len(list(read_outcomes(run / "round-1/curate"))) == 8
    assert "--fresh" in done.stderr


def bytes_of(run: Path) -> dict[str, bytes]:
    """All files but locks, which hold the number of who had them last."""
    files = (path for path in run.rglob("*") if path.is_file() and "lock" not in path.name)
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


REFUSED = {
    ("curate", "--n", "4"): "n 8 -> 4",
    ("curate", "--data", "nowhere"): "its data is shapes, and --data nowhere is other",
    ("curate", "--round", "3", "--data", "nowhere"): "its data is shapes, and --data nowhere is other",
    ("curate", "--seed", "9"): "seed 0 -> 9",
    ("curate", "--seed", "-1"): "seed is -1",
    ("curate", "--limit", "9"): "its pairs have been trained on, and would be others (8 -> 9 items)",
    ("curate", "--set", "curate.threshold=0.9"): "would be others (threshold 0.6 -> 0.9)",
    ("curate", "--set", "curate.rules=official", "--round", "2"): "(rules 'paper' -> 'official')",
    ("curate", "--round", "3", "--n", "1000000"): "curate.n is 1000000: with curate.chunk 4",
    ("curate", "--set", "curate.caption.max_tokens=100000"): "image and prompt leave 86 of the model's 128",
    ("curate", "--set", "curate.image.steps=37"): "curate.image.steps is 37; the model's images have 36",
    ("curate", "--set", "engine.tensor_parallel=640"): "engine.tensor_parallel is 640",
    ("curate", "--set", "engine.kv_cache_gib=100000"): "lower engine.kv_cache_gib",
    ("curate", "--similarity", "nowhere"): "no model in this folder",
    ("curate", "--model", "OTHER"): "name that model with --model, or use another --run",
    ("curate", "--model", "nowhere"): "name a checkpoint folder with --model",
    ("reference", "--reference", "base", "--round", "2"): "was started with reference weights",
    ("train", "--set", "train.beta=0.3"): "was started with beta 2.0, now 0.3",
    ("train", "--seed", "5"): "was started with seed 0, now 5",
    ("train", "--set", "train.step=3"): "did you mean train.steps?",
    ("train", "--ranks", "7"): "batch_size is 32",
    ("train", "--set", "curate.n=5"): "`hermes train` does not go by curate.n",
    ("reference", "--set", "data=elsewhere"): "`hermes reference` does not go by data",
    ("curate", "--set", "train.beta=0.9"): "`hermes curate` does not go by train.beta",
    ("eval", "--model", "OTHER"): "name that model with --model, or use another --run",
    ("eval", "--data", "nowhere"): "nowhere: there is no such file",
    ("eval", "--set", "eval.image.steps=37"): "eval.image.steps is 37",
    ("run", "--rounds", "2", "--n", "4"): "n 8 -> 4",
    ("run", "--rounds", "0", "--n", "4"): "n 8 -> 4",
    ("run", "--rounds", "2", "--limit", "9"): "8 -> 9 items",
    ("run", "--rounds", "2", "--set", "train.beta=0.3"): "was started with beta 2.0, now 0.3",
    ("run", "--rounds", "3", "--set", "train.device=cuda"): "device",
    ("run", "--rounds", "2", "--data", "nowhere"): "nowhere",
    ("run", "--rounds", "2", "--model", "OTHER"): "name that model with --model, or use another --run",
    ("run", "--rounds", "2", "--n", "4", "--dry-run"): "n 8 -> 4",
    ("run", "--until", "gap<0.1,gen>0.5"): "give one condition",
    ("run", "--ranks", "7"): "batch_size is 32",
    ("run", "--recipe", "papre"): "there is no such recipe",
    ("import-pairs", "nowhere", "--round", "3"): "nowhere",
}


def test_a_refused_command_changes_nothing(steps: tuple[Path, list[str]]) -> None:
    run, _ = steps
    before, other = bytes_of(run), str(run / "round-1/checkpoint")
    for words, said in REFUSED.items():
        given = [other if word == "OTHER" else word for word in words]
        done = CliRunner().invoke(app, [*given, "--run", str(run)])
        assert isinstance(done.exception, HermesError), (words, done.output, done.exception)
        assert said in str(done.exception), words
        assert "\n" not in str(done.exception), words
        assert bytes_of(run) == before, words


def test_a_curation_at_work_hears_nothing_of_a_second_one(steps: tuple[Path, list[str]]) -> None:
    run, _ = steps
    before = bytes_of(run)
    for fresh in ((), ("--fresh",)):
        with locked(run / "round-1/curate"):
            done = CliRunner().invoke(app, ["curate", "--run", str(run), "--set", "curate.max_bad=3", *fresh])
        assert isinstance(done.exception, BusyError)
        assert bytes_of(run) == before


def test_who_looks_leaves_the_run_as_it_is(steps: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, _ = steps
    times = {"events.jsonl", "report.json", "report.html"}
    before = bytes_of(run)
    for words in (
        ("status", str(run)),
        ("config", "--run", str(run)),
        ("inspect", str(run), "--to", str(tmp_path / "page.html")),
        ("pairs", str(run)),
        ("run", "--run", str(run), "--rounds", "3", "--dry-run"),
        ("curate", "--run", str(run), "--round", "3", "--n", "4", "--dry-run"),
        ("train", "--run", str(run), "--round", "3", "--dry-run", "--set", "train.beta=0.3"),
        ("curate", "--run", str(run)),
        ("report", str(run), "--to", str(tmp_path / "report.html")),
        ("eval", "--run", str(run), "--set", "train.beta=0.3"),
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output, done.exception)
        after = bytes_of(run)
        written = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        assert written <= (times if words[0] in ("curate", "report", "eval") else set()), words
        before = after


def test_a_killed_curation_resumes_without_losing_or_repeating_an_item(
    steps: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Another size of chunks, too, changes no byte of the pairs or of the sealed candidates."""
    run, _ = steps
    log = tmp_path / "runs/default/round-1/curate/candidates/000000.open.jsonl"
    given = ("curate", "--n", "8", "--limit", "8", *SMALL)
    victim = subprocess.Popen(
        command(*given, "--set", "curate.chunk=3"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
        assert victim.poll() is None
        time.sleep(0.02)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert log.read_bytes()
    hermes(tmp_path, *given)
    for name in ("pairs.jsonl", "candidates/000000.jsonl", "manifest.json", "quarantine.jsonl"):
        ours = tmp_path / "runs/default/round-1/curate" / name
        assert ours.read_bytes() == (run / "round-1/curate" / name).read_bytes(), name


def test_a_finished_curation_starts_no_engine_and_can_begin_again(
    steps: tuple[Path, list[str]], tmp_path: Path
) -> None:
    run, _ = steps
    given = ("curate", "--n", "8", "--limit", "8", *SMALL)
    shutil.copytree(run, tmp_path / "runs/default")
    pairs = tmp_path / "runs/default/round-1/curate/pairs.jsonl"
    before = pairs.read_bytes()
    assert "starting the engine" not in hermes(tmp_path, *given)
    assert pairs.read_bytes() == before
    printed = " ".join(hermes(tmp_path, *given, "--fresh").split())
    assert "starting the engine" in printed
    assert pairs.read_bytes() == before
    ours = tmp_path / "runs/default"
    assert [path.name for path in (ours / "round-1").iterdir()] == ["curate"], "what followed is set aside"
    for name in ("round-1.old-1/checkpoint", "round-1.old-1/eval.json", "round-2.old-1/curate/pairs.jsonl"):
        assert (ours / name).exists()
        assert name.partition("/")[0] in printed
    assert not [*ours.glob("round-2"), *ours.glob("report.*"), *ours.glob("best.json")]


def test_ray_workers_give_the_pairs_of_one_process(steps: tuple[Path, list[str]], tmp_path: Path) -> None:
    """A run that goes on with a curation starts no engine of its own before its evaluation."""
    pytest.importorskip("ray")
    run, _ = steps
    ours = full_of_names(tmp_path) / "runs/default"
    shutil.copytree(run / "round-0", ours / "round-0")
    given = (
        "run",
        "--n",
        "8",
        "--limit",
        "8",
        "--workers",
        "ray",
        "--ranks",
        "2",
        *SMALL,
        "--set",
        "curate.chunk=2",
    )
    assert "starting 2 workers on Ray" in hermes(tmp_path, *given, "--set", "eval.limit=12")
    assert [(number, stage) for number, stage, event in log_of(ours) if event == "begun"] == [
        (0, "run"), (1, "curate"), (1, "reference"), (1, "train"), (0, "engine"), (1, "swap"), (1, "eval")
    ]  # fmt: skip
    for name in ("pairs.jsonl", "candidates/000000.jsonl", "manifest.json"):
        assert (ours / "round-1/curate" / name).read_bytes() == (
            run / "round-1/curate" / name
        ).read_bytes(), name


def test_run_does_all_rounds_with_one_engine(steps: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, _ = steps
    given = ("--n", "8", "--limit", "8", *SMALL, *SAME, "--set", "eval.limit=12")
    printed = hermes(tmp_path, "run", "--rounds", "2", *given)
    assert printed.count("starting the engine") == 1
    assert printed.count("swapped to the weights") == 2
    ours, theirs = (
        json.loads((folder / "report.json").read_text()) for folder in (tmp_path / "runs/default", run)
    )
    # The swapped engine samples and answers exactly as the fresh engines of the single commands.
    for report in (ours, theirs):
        for one in report["rounds"]:
            for name in report["times"]:
                del one[name]
    assert ours == theirs
    events = log_of(tmp_path / "runs/default")
    assert [event for event in events if event[1] in ("engine", "swap", "run")] == [
        (0, "run", "begun"), (0, "engine", "begun"), (0, "engine", "done"),
        (1, "swap", "begun"), (1, "swap", "swapped"), (2, "swap", "begun"), (2, "swap", "swapped"),
        (0, "run", "done"),
    ]  # fmt: skip
    assert [event for event in events if event[1] in STAGES] == [
        (number, stage, event)
        for number in range(3)
        for stage in (STAGES if number else ("eval",))
        for event in ("begun", "done")
    ]
    again = hermes(tmp_path, "run", "--rounds", "9", "--until", "und>0.01", *given)
    assert "stopped after round 1: round 1 reaches und > 0.01" in again
    assert "starting the engine" not in again


def timeless(run: Path) -> dict[str, object]:
    report = json.loads((run / "report.json").read_text())
    for one in report["rounds"]:
        for name in report["times"]:
            del one[name]
    return report  # type: ignore[no-any-return]


def test_a_refused_swap_ends_the_run_in_one_line_and_the_same_command_goes_on(
    steps: tuple[Path, list[str]], tmp_path: Path
) -> None:
    run, _ = steps
    ours = tmp_path / "runs/default"
    shutil.copytree(run, ours)
    (ours / "round-2/eval.json").unlink()
    stored = ours / "round-2/checkpoint" / PROBES
    probes = stored.read_bytes()
    found = json.loads(probes)
    found["probes"][0]["logp"] += 5
    stored.write_text(json.dumps(found))
    for _ in range(2):
        done = subprocess.run(command(*AGAIN), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("hermes: swap to round 2 refused: ")
        assert done.stderr.strip().count("\n") == 0
        last = read_events(ours / "events.jsonl")[-1]
        assert (last.round, last.stage, last.event) == (2, "swap", "failed")
        assert last.reason.endswith("the old weights, of round 1, keep serving")
        assert last.weights == fingerprint(ours / "round-1/checkpoint")
    assert "last:" in hermes(tmp_path, "status")
    stored.write_bytes(probes)
    assert "swapped to the weights of round 2" in hermes(tmp_path, *AGAIN)
    assert timeless(ours) == timeless(run)
    assert "keep serving" in (ours / "report.html").read_text()
    found = json.loads(hermes(tmp_path, "status", "--json"))
    assert (found["request"]["rounds"], found["ended"]) == (2, "all rounds are done")


def test_what_kills_left_half_done_is_done_without_an_engine_where_none_is_needed(
    steps: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Pairs without their summary, weights without their picture, states of a finished training."""
    run, _ = steps
    ours = tmp_path / "runs/default"
    shutil.copytree(run, ours)
    lost = ("round-2/curate/curate.json", "round-2/curate/sheet.png", "round-1/training.png")
    for name in (*lost, "report.json", "report.html"):
        (ours / name).unlink()
    for name in ("round-2/checkpoint", "round-2/checkpoint.training", "round-2/reference.zarr"):
        shutil.rmtree(ours / name)
    (ours / "round-1/checkpoint.training/state-000004").mkdir()
    (ours / "round-1/checkpoint.training/state-000006.new").mkdir()
    lines = (ours / "events.jsonl").read_bytes().splitlines(keepends=True)
    start = b'{"round":2,"stage":"curate","event":"begun"'
    begun = next(place for place, line in enumerate(lines) if line.startswith(start))
    (ours / "events.jsonl").write_bytes(b"".join(lines[: begun + 2]))
    states = {one["stage"]: one["state"] for one in json.loads(hermes(ours, "status", str(ours), "--json"))[
        "rounds"][2]["stages"]}  # fmt: skip
    assert states == {"curate": "stopped", "reference": "waiting", "train": "waiting", "eval": "done"}
    printed = hermes(tmp_path, *AGAIN)
    assert "starting the engine" not in printed
    for name in lost:
        assert (ours / name).read_bytes()
    assert not list((ours / "round-1/checkpoint.training").glob("state-*"))
    theirs, found = timeless(run), timeless(ours)
    assert found == theirs
