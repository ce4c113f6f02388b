"""Files of a curation survive kills and refuse what does not belong to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from curating import some_origin
from msgspec.structs import replace

from curate import pairs
from curate.config import CurateConfig
from curate.pipeline import pair_item
from curate.store.files import IMPORTED, read_records, write_records
from curate.store.previous_pairs import PairHistory, PreviousPairs
from engine.errors import ConfigError, DataError
from engine.records import Candidates, CaptionCandidate, ImageCandidate, Preference


def record(name: str, scores: tuple[float, ...] = (1.0, 0.2), round_number: int = 1) -> Candidates:
    return Candidates(
        id=name,
        round=round_number,
        caption="a red circle",
        category="colors",
        objects=1,
        questions=(),
        image_codes=(1, 2),
        captions=tuple(
            CaptionCandidate(index=i, text=f"{i}", token_ids=(round_number, i), seed=i, score=score)
            for i, score in enumerate(scores)
        ),
        images=tuple(
            ImageCandidate(index=i, codes=(round_number, i), seed=i, answers=("yes",), score=score)
            for i, score in enumerate(scores)
        ),
    )


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_records(path, [record("a")])
    with path.open("ab") as stream:
        stream.write(b'{"id": 3}\n')
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 2"):
        list(read_records(path, Candidates))


def test_an_item_without_a_new_pair_keeps_its_latest_one(tmp_path: Path) -> None:
    config = CurateConfig()
    first = pair_item(record("a"), PreviousPairs(), config, some_origin())
    files = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    write_records(files[0], [first])
    earlier = PairHistory(files[:1]).of("a")
    lost = pair_item(record("a", (0.1, 0.1), 2), earlier, config, some_origin(2))
    assert (lost.captions, lost.images) == (None, None)
    write_records(files[1], [lost])
    assert PairHistory(files).of("a") == earlier
    assert earlier.captions == first.captions


def test_scores_of_imported_pairs_are_not_compared_with_ours(tmp_path: Path) -> None:
    files = [tmp_path / name / "pairs.jsonl" for name in ("1", "2")]
    for file in files:
        write_records(file, [pair_item(record("a"), PreviousPairs(), CurateConfig(), some_origin())])
    (tmp_path / "2" / IMPORTED).write_text("{}")
    assert PairHistory(files).of("a") == PairHistory(files[:1]).of("a") != PreviousPairs()
    assert PairHistory(files[1:]).of("a") == PreviousPairs()


def test_round_two_pairs_carry_the_rounds_of_both_sides(tmp_path: Path) -> None:
    config = CurateConfig()
    path = tmp_path / "pairs.jsonl"
    write_records(path, [pair_item(record("a", (0.7, 0.2)), PreviousPairs(), config, some_origin())])
    new = pair_item(record("a", (0.9, 0.1), 2), PairHistory([path]).of("a"), config, some_origin(2))
    assert new.images is not None
    assert new.captions is not None
    assert (new.images.win.score, new.images.lose.score) == (0.9, 0.7)
    assert (new.captions.win_round, new.captions.lose_round) == (2, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 1},
        {"limit": -1},
        {"threshold": 1.0},
        {"caption_margin": float("nan")},
        {"image_margin": -1.0},
        {"chunk": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CurateConfig(**wrong)  # type: ignore[arg-type]


def test_official_rules_have_no_margin() -> None:
    with pytest.raises(ConfigError, match=r"image_margin is 0\.1; the official rules have no margin"):
        CurateConfig(rules="official", image_margin=0.1)


def test_an_item_keeps_one_side_where_the_other_makes_no_pair_unless_rules_want_both() -> None:
    images = tuple(replace(one, score=one.score / 2) for one in record("a").images)
    candidates = replace(record("a"), images=images)
    paper = pair_item(candidates, PreviousPairs(), CurateConfig(), some_origin())
    assert paper.captions is not None
    assert (paper.images, paper.image_reason) == (None, pairs.BELOW_THRESHOLD)
    official = pair_item(candidates, PreviousPairs(), CurateConfig(rules="official"), some_origin())
    assert (official.captions, official.images) == (None, None)
    assert (official.caption_reason, official.image_reason) == (pairs.OTHER_SIDE, pairs.BELOW_THRESHOLD)


def test_files_written_before_likelihoods_are_read_and_written_as_before(tmp_path: Path) -> None:
    preference = pair_item(record("a"), PreviousPairs(), CurateConfig(), some_origin())
    path = tmp_path / "pairs.jsonl"
    write_records(path, [preference])
    text = path.read_text().partition('"provenance"')[0]
    assert "likelihood" not in text
    assert "tie" not in text
    assert list(read_records(path, Preference)) == [preference]
    assert preference.images is not None
    win = replace(preference.images.win, likelihood=-0.5)
    tied = replace(preference, images=replace(preference.images, win=win, tie=True))
    write_records(path, [tied])
    assert list(read_records(path, Preference)) == [tied]


def test_preferences_survive_the_file(tmp_path: Path) -> None:
    kept = [pair_item(record(f"{i}"), PreviousPairs(), CurateConfig(), some_origin()) for i in range(3)]
    write_records(tmp_path / "p.jsonl", kept)
    assert list(read_records(tmp_path / "p.jsonl", Preference)) == kept


def test_the_latest_pairs_are_found_by_id_in_files_of_any_order(tmp_path: Path) -> None:
    config = CurateConfig()
    files = [tmp_path / f"{i}.jsonl" for i in range(2)]
    names = [f"item {i} é" for i in range(50)]
    first = {name: pair_item(record(name), PreviousPairs(), config, some_origin()) for name in names}
    second = {
        name: pair_item(record(name, (0.9, 0.1), 2), PreviousPairs(), config, some_origin(2))
        for name in names[::3]
    }
    write_records(files[0], first.values())
    write_records(files[1], list(second.values())[::-1])
    found = PairHistory(files)
    for name in names:
        assert found.of(name).captions == second.get(name, first[name]).captions
    assert found.of("another") == PreviousPairs()


def test_every_pair_tells_where_it_comes_from() -> None:
    found = pair_item(record("a"), PreviousPairs(), CurateConfig(), some_origin())
    assert found.provenance is not None
    assert (found.provenance.model, found.provenance.origin) == ("m", some_origin().digest())
    assert found.provenance.caption_scores == found.provenance.image_scores == (1.0, 0.2)
    assert found.provenance.image_seeds == (0, 1)
    assert found.provenance.image_answers == (("yes",), ("yes",))
