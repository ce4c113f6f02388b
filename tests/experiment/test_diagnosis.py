"""The diagnoses on a curation made by hand, of which it is known what they must find."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_run import measured, save_training
from PIL import Image

from benchmarks.experiment.diagnosis import critic, displacement, drift, nuisance, variance
from benchmarks.experiment.diagnosis.inspected import Inspected, finish, mean
from benchmarks.experiment.diagnosis.scoring import PairScores
from benchmarks.experiment.settings import settle
from curate.evaluation.agreement import Judged
from curate.shapes import world
from curate.store.files import write_records
from curate.store.outcomes import Sampled
from curate.store.shards import ShardStore
from engine.errors import ConfigError, DataError
from engine.files.atomic import write_file
from engine.files.layout import resolve_model
from engine.records import Candidates, ImageCandidate, ImagePair, Preference
from engine.tokenizers.codec import Pixels
from train.logging.metrics import read_metrics

ITEMS = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each item its own image and another's; the critic is right about both but for the last item."""
    root = tmp_path_factory.mktemp("made")
    items = [world.item("train", 0, index)[0] for index in range(ITEMS)]
    codes = Pixels(resolve_model("") / "image_tokenizer").codes(
        np.stack([world.image_of(item.id) for item in items])
    )
    outcomes, preferences = [], []
    for place, item in enumerate(items):
        right = tuple(question.answer for question in item.questions)
        wrong = tuple("none" for _ in item.questions)
        said = (right, wrong) if place < ITEMS - 1 else (wrong, right)
        images = tuple(
            ImageCandidate(
                index=index,
                codes=codes[place] if index == 0 else codes[(place + 1) % ITEMS],
                seed=index,
                answers=answers,
                score=float(answers == right),
            )
            for index, answers in enumerate(said)
        )
        win, lose = sorted(images, key=lambda one: -one.score)
        outcomes.append(
            Sampled(
                number=place,
                item=Candidates(
                    id=item.id,
                    round=1,
                    caption=item.caption,
                    category=item.category,
                    objects=item.objects,
                    questions=item.questions,
                    image_codes=codes[place],
                    captions=(),
                    images=images,
                ),
            )
        )
        pair = ImagePair(win=win, lose=lose, win_round=1, lose_round=1)
        preferences.append(
            Preference(id=item.id, caption=item.caption, image_codes=codes[place], captions=None, images=pair)
        )
    folder = root / "round-1/curate"
    with ShardStore(folder) as store:
        store.append(outcomes)
        store.seal(0)
    write_records(folder / "pairs.jsonl", preferences)
    settings = settle({"curate": {"limit": ITEMS, "similarity": "minilm"}, "train": {"steps": 8}}, "here")
    write_file(root / "run.json", msgspec.json.encode(settings))
    save_training(root, 1, steps=8)
    return root


def test_a_critic_that_names_the_items_own_image_is_right_but_where_it_lies(run: Path) -> None:
    report = critic.diagnose(Inspected(run, 1))
    assert report is not None
    (row,) = report.pairs
    assert (row.above, row.upto, row.pairs) == (0.51, 1.0, ITEMS)
    assert row.wrong.value <= 1 / ITEMS + 1e-9
    assert row.right.value + row.tied.value + row.wrong.value == pytest.approx(1)
    assert report.all.by_score.selection.value > report.all.by_chance.selection.value
    assert {one.kind for one in report.kinds} == {
        question.kind for item in Inspected(run, 1).items() for question in item.questions
    }
    whole = sum(row.answers.same.count for row in report.kinds)
    assert whole == report.all.answers.same.count
    text = critic.table(report)
    assert all(one.kind in text for one in report.kinds)


def test_scores_of_one_kind_of_question_come_from_its_answers_alone(run: Path) -> None:
    inspected = Inspected(run, 1)
    for item in inspected.items():
        judged = critic.judge_item(item, None, inspected.decode)
        for kind in {question.kind for question in item.questions}:
            part = critic.restricted(judged, kind)
            assert {question.kind for question in part.questions} == {kind}
            assert part.scores == judged.scores
        assert critic.restricted(judged, "none").questions == ()


def test_a_rendered_scene_is_clean_and_noise_is_not() -> None:
    item = world.item("train", 0, 3)[0]
    clean = nuisance.traits(world.image_of(item.id))
    assert (clean.stray, clean.unclear) == (0, 0)
    assert clean.objects == item.objects
    assert 0.5 < clean.background < 1
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    assert nuisance.traits(noise).stray > 0.5
    blank = nuisance.traits(np.full((48, 48, 3), 240, np.uint8))
    assert blank == nuisance.Traits(background=1.0, objects=0.0, stray=0.0, unclear=0.0)


def test_the_oracles_pair_is_its_best_against_its_worst(run: Path) -> None:
    item = next(iter(Inspected(run, 1).items()))
    assert nuisance.by_oracle(item, (0.5, 1.0, 0.0, 1.0)) == (1, 2)
    assert nuisance.by_oracle(item, (0.5, 0.5)) is None


def test_winners_are_compared_with_losers_trait_by_trait(run: Path, tmp_path: Path) -> None:
    report = nuisance.diagnose(Inspected(run, 1), draws=2)
    ours = {one.trait: one for one in report.critic}
    theirs = {one.trait: one for one in report.oracle}
    assert ours.keys() == theirs.keys() == {"oracle accuracy", *nuisance.Traits._fields, "log-prob"}
    for one in report.critic:
        assert one.win is not None
        assert one.lose is not None
        assert one.difference is not None
        assert one.difference.value == pytest.approx(one.win.value - one.lose.value, abs=1e-4)
    # An item's own image is likelier under its caption than another's.
    for side in (ours, theirs):
        likelier = side["log-prob"].difference
        assert likelier is not None
        assert likelier.value > 0
    accuracy = theirs["oracle accuracy"].difference
    assert accuracy is not None
    assert accuracy.ci[0] > 0
    nuisance.draw(report, tmp_path / "nuisance.png")
    with Image.open(tmp_path / "nuisance.png") as picture:
        assert picture.width > 1000


def test_noise_within_and_between_pairs_is_told_apart() -> None:
    rng = np.random.default_rng(0)
    values = 3 + 2 * rng.standard_normal((4000, 1)) + 4 * rng.standard_normal((4000, 8))
    found = variance.noise(values)
    assert found.mean == pytest.approx(3, abs=0.2)
    assert found.within == pytest.approx(16, rel=0.05)
    assert found.between == pytest.approx(4, rel=0.15)
    assert found.draws_for_one == pytest.approx(4, rel=0.2)
    alike = variance.noise(np.tile([1.0, 2.0], (3, 1)))
    assert (alike.between, alike.draws_for_one) == (0, None)
    with pytest.raises(DataError, match="two draws"):
        variance.noise(np.ones((3, 1)))


def test_draws_are_sorted_into_bins_by_what_they_hide() -> None:
    hidden = np.array([[0.1, 0.2, 0.95, 1.0], [0.1, 0.2, 0.95, 1.0]])
    win = np.array([[1.0, 3.0, 9.0, 9.0], [2.0, 4.0, 9.0, 9.0]])
    found = variance.bins(PairScores(win, np.zeros((2, 4)), hidden))
    assert [(one.above, one.upto, one.draws) for one in found] == [(0.0, 0.25, 4), (0.9, 1.0, 4)]
    assert found[0].difference_sd == pytest.approx(2**0.5, abs=1e-3)
    assert found[0].between_sd == pytest.approx(0.5**0.5, abs=1e-3)
    assert found[1].difference_sd == 0


def test_an_images_log_prob_is_noisier_than_it_is_under_one_mask(run: Path) -> None:
    report = variance.diagnose(Inspected(run, 1), 6, 4)
    assert (report.pairs, report.draws, report.change) == (6, 4, None)
    assert report.log_prob.within > 0
    assert report.log_prob.mean < 0
    assert sum(one.draws for one in report.bins) <= 24
    assert "K for 1" in variance.table(report)


def test_windows_are_means_over_neighbouring_steps(run: Path) -> None:
    steps = read_metrics(run / "round-1/checkpoint.training/metrics.jsonl")
    found = displacement.windows(steps, 4)
    assert [one.last for one in found] == [2, 4, 6, 8]
    assert found[0].captions is not None
    assert (found[0].captions.margin, found[0].captions.win_gain) == (0.25, 0.5)
    assert found[0].images is None
    assert [one.last for one in displacement.windows(steps[:3], 10)] == [1, 2, 3]


def test_a_point_is_the_gain_over_the_base_item_by_item() -> None:
    base, after = measured("a", [(1, 1, 2)] * 6), measured("b", [(1, 2, 2)] * 6)
    found = displacement.point(40, base, after)
    assert found.gen is not None
    assert found.gen.value == pytest.approx(1 / 4)
    assert found.und is not None
    assert found.und.value == 0


def test_a_shorter_training_keeps_its_share_of_sum_steps() -> None:
    settings = settle({"train": {"objective": "product", "steps": 100, "sum_steps": 40}}, "here")
    assert displacement.shorter(settings, 25).train.sum_steps == 10
    for steps in (0, 100):
        with pytest.raises(ConfigError, match="the round itself has 100"):
            displacement.shorter(settings, steps)


def test_a_mean_of_fewer_than_two_is_none() -> None:
    assert mean([1.0]) is None
    assert mean([]) is None


@pytest.mark.parametrize("module", [critic, displacement], ids=["critic", "displacement"])
def test_a_diagnosis_prints_writes_and_draws_and_says_what_is_missing(
    run: Path,
    tmp_path: Path,
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = ["--to", str(tmp_path / "found.json"), "--picture", str(tmp_path / "found.png")]
    given = ["diagnosis", "--run", str(run), *paths]
    monkeypatch.setattr(sys, "argv", given)
    finish(module.main)
    assert f"written to {tmp_path / 'found.json'}" in capsys.readouterr().out
    assert msgspec.json.decode((tmp_path / "found.json").read_bytes())["round"] == 1
    with Image.open(tmp_path / "found.png") as picture:
        assert picture.width > 1000
    monkeypatch.setattr(sys, "argv", [*given, "--round", "3"])
    with pytest.raises(SystemExit) as caught:
        finish(module.main)
    assert str(caught.value).startswith("diagnosis: ")
    assert "\n" not in str(caught.value)


def test_drift_follows_critic_pairs_and_likelihoods_over_the_runs_of_a_recipe(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs under one recipe. One of them has not trained: its log-probs are left out, not taken for 0."""
    cell = tmp_path / "cell"
    shutil.copytree(run, cell / "seed-0")
    shutil.copytree(run, cell / "seed-1", ignore=shutil.ignore_patterns("checkpoint.training"))
    metrics = cell / "seed-0/round-1/checkpoint.training/metrics.jsonl"
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    told = [{**step, "images": {**step["captions"], "lose_gain": -1.0 * step["step"]}} for step in steps]
    metrics.write_text("".join(json.dumps(step) + "\n" for step in told))
    found = drift.diagnose("made", cell)
    trained, untrained = (one.rounds[0] for one in found.runs)
    assert (trained.right, trained.wrong) == ((ITEMS - 1) / ITEMS, 1 / ITEMS)
    assert (len(steps), trained.lose_gain) == (8, -7.5)
    assert untrained == msgspec.structs.replace(trained, win_gain=None, lose_gain=None, kl=None)
    assert found.means("lose_gain") == [(1, -7.5)]
    paths = ["--to", str(tmp_path / "found.json"), "--picture", str(tmp_path / "found.png")]
    monkeypatch.setattr(sys, "argv", ["drift", f"made={cell}", str(run), *paths])
    finish(drift.main)
    assert "made, round 1" in capsys.readouterr().out
    assert (tmp_path / "found.png").is_file()
    monkeypatch.setattr(sys, "argv", ["drift", str(tmp_path), *paths])
    with pytest.raises(SystemExit, match="neither a run nor a folder of runs"):
        finish(drift.main)


@example([(5, 3, 1)])
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9)), min_size=1))
def test_every_pair_of_the_critic_stands_in_one_bin_of_score_differences(
    drawn: list[tuple[int, int, int]],
) -> None:
    """Also where a difference of shares lies on an edge but for its last bits, as 0.8 - 0.6 does."""
    seen = []
    for count, losing, gained in drawn:
        winning = min(count, losing + gained)
        win, lose = (
            ImageCandidate(index=i, codes=(i,), seed=i, answers=("x",), score=right / count)
            for i, right in enumerate((winning, min(losing, winning)))
        )
        pair = ImagePair(win=win, lose=lose, win_round=1, lose_round=1)
        judged = Judged(questions=(), critic=(), oracle=(), scores=(win.score, lose.score), pair=(1.0, 0.0))
        seen.append(critic.Seen(judged, pair))
    assert sum(row.pairs for row in critic.pair_rows(seen)) == len(seen)
