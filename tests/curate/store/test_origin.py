"""A folder belongs to what it was curated from, and rounds that are compared to one set of scorers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from curate.config import CurateConfig, JudgeConfig
from curate.scoring.judge import Judge
from curate.scoring.scorers import Scorers
from curate.sources import load_source
from curate.store.origin import Origin, Serving, claim, origin_of, require_same_scorers
from engine.errors import StaleError

ORIGIN = Origin(
    model="a", precision="float32", data="shapes", round=1, seed=0, n=2, captions=[], image={}, answer={},
    similarity="minilm@12", choices="minilm@12",
)  # fmt: skip


def early(sampler: str = "branched") -> dict[str, object]:
    """What early folders hold of the default settings: the sampler among those of captions, no device."""
    tree = msgspec.to_builtins(ORIGIN)
    del tree["device"], tree["deterministic"]
    one = msgspec.to_builtins(CurateConfig().caption)
    assert "sampler" not in one
    return {**tree, "captions": [{**one, "sampler": sampler}] * 2}


def today(**changes: object) -> Origin:
    """The origin of the default settings with two candidates."""
    serving = msgspec.structs.replace(Serving(model="a", precision="float32"), **changes)
    found = origin_of(serving, load_source("shapes", "train", 2, 0, 32), CurateConfig(n=2), scorers(), 1, 0)
    return msgspec.structs.replace(found, data="shapes", image={}, answer={}, annotations="")


class Named:
    """A similarity of which only the name matters."""

    def __init__(self, name: str) -> None:
        self.name = name

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), 1), np.float32)


def scorers(captions: str = "minilm@12", choices: str = "minilm@12", url: str = "") -> Scorers:
    judge = Judge(JudgeConfig(url=url, model="m")) if url else None
    return Scorers(Named(captions), Named(choices), judge)


def test_a_changed_text_model_or_judge_is_refused_with_the_difference_named(tmp_path: Path) -> None:
    claim(tmp_path, ORIGIN)
    claim(tmp_path, ORIGIN)
    with pytest.raises(StaleError, match="similarity 'minilm@12' -> 'minilm@34'"):
        claim(tmp_path, msgspec.structs.replace(ORIGIN, similarity="minilm@34"))
    with pytest.raises(StaleError, match=r"judge None -> \{'model': 'm', 'url': 'u'\}"):
        claim(tmp_path, msgspec.structs.replace(ORIGIN, judge={"model": "m", "url": "u"}))


def test_a_changed_plan_is_named_by_what_changed_in_it_and_nothing_else(tmp_path: Path) -> None:
    plan = [{"temperature": 1.0, "top_k": 0}] * 8
    origin = msgspec.structs.replace(ORIGIN, captions=plan, image={"steps": 18, "guidance": 1.0})
    claim(tmp_path, origin)
    for moved, words in (
        ({"captions": plan[:3]}, r"\(captions: 8 -> 3 entries\)"),
        ({"captions": [*plan[:2], {"temperature": 0.5, "top_k": 0}, *plan[3:]]},
         r"\(captions\[2\]\.temperature 1\.0 -> 0\.5\)"),
        ({"image": {"steps": 50, "guidance": 1.0}}, r"\(image\.steps 18 -> 50\)"),
    ):  # fmt: skip
        with pytest.raises(StaleError, match=words):
            claim(tmp_path, msgspec.structs.replace(origin, **moved))


def test_a_later_round_is_scored_as_the_rounds_it_is_compared_with(tmp_path: Path) -> None:
    claim(tmp_path / "1", ORIGIN)
    folders = [tmp_path / "1", tmp_path / "imported"]
    require_same_scorers(folders, scorers())
    for other, words in (
        (scorers(captions="mpnet@56"), "similarity 'minilm@12' -> 'mpnet@56'"),
        (scorers(choices="mpnet@56"), "choices 'minilm@12' -> 'mpnet@56'"),
        (scorers(url="http://localhost/v1"), "judge None -> "),
    ):
        with pytest.raises(StaleError, match=words):
            require_same_scorers(folders, other)


def test_the_judge_in_an_origin_survives_the_file(tmp_path: Path) -> None:
    judged = scorers(url="https://judge.example/v1/")
    assert judged.judge is not None
    origin = msgspec.structs.replace(ORIGIN, judge=judged.judge.origin)
    claim(tmp_path, origin)
    claim(tmp_path, origin)
    require_same_scorers([tmp_path], scorers(url="https://judge.example/v1"))
    with pytest.raises(StaleError, match=r"other\.example"):
        require_same_scorers([tmp_path], scorers(url="https://other.example/v1"))


def test_an_origin_written_before_digests_is_taken_as_the_model_of_its_name(tmp_path: Path) -> None:
    old = msgspec.to_builtins(ORIGIN) | {"similarity": "minilm"}
    del old["choices"], old["judge"]
    (tmp_path / "origin.json").write_bytes(msgspec.json.encode(old))
    claim(tmp_path, ORIGIN)
    require_same_scorers([tmp_path], scorers())
    with pytest.raises(StaleError, match="similarity 'minilm' -> 'mpnet@12'"):
        require_same_scorers([tmp_path], scorers(captions="mpnet@12"))


def test_a_folder_from_before_the_sampler_was_the_engines_goes_on_and_keeps_its_name(tmp_path: Path) -> None:
    before = msgspec.json.encode(early())
    (tmp_path / "origin.json").write_bytes(before)
    claim(tmp_path, today())
    assert today().encoded() == before
    assert today().sampler == "branched"
    with pytest.raises(StaleError, match=r"captions\[0\]\.sampler 'branched' -> 'paged'"):
        claim(tmp_path, today(sampler="paged"))


def test_a_curation_stays_on_the_kind_of_device_where_it_was_begun(tmp_path: Path) -> None:
    (tmp_path / "origin.json").write_bytes(msgspec.json.encode(early("paged")))
    claim(tmp_path, today(sampler="paged"))
    with pytest.raises(StaleError, match=r"\(device 'cpu' -> 'cuda'\)") as refused:
        claim(tmp_path, today(sampler="paged", device="cuda"))
    assert "\n" not in str(refused.value)
    gpu = today(sampler="paged", device="cuda")
    claim(tmp_path / "gpu", gpu)
    claim(tmp_path / "gpu", gpu)
    for other, words in (
        (today(sampler="paged"), "device 'cuda' -> 'cpu'"),
        (today(sampler="paged", device="cuda", deterministic=False), "deterministic True -> False"),
    ):
        assert other.digest() != gpu.digest()
        with pytest.raises(StaleError, match=words):
            claim(tmp_path / "gpu", other)
