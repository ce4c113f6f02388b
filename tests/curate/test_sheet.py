"""Pictures for people lie inside their folder, whatever the ids of a data set look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from curate.sheet import save_images
from engine.records import Candidates, Preference


def black(codes: Sequence[Sequence[int]]) -> np.ndarray:
    return np.zeros((len(codes), 4, 4, 3), np.uint8)


def saved(folder: Path, *ids: str) -> list[Path]:
    """The pictures of items with these ids."""
    records = [
        Candidates(
            id=one,
            round=1,
            caption="",
            category="",
            objects=0,
            questions=(),
            image_codes=(0,),
            captions=(),
            images=(),
        )
        for one in ids
    ]
    pairs = [Preference(id=one, caption="", image_codes=(0,), captions=None, images=None) for one in ids]
    save_images(records, pairs, black, folder)
    return sorted(folder.parent.rglob("*.png"))


@pytest.mark.parametrize("name", ["../out", "/etc/out", "..", ".", "a/b", "a\\b", "nul\0", "x" * 500])
def test_an_id_that_looks_like_a_path_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    (picture,) = saved(tmp_path / "images", name)
    assert picture.parents[1] == tmp_path / "images"


def test_plain_ids_name_their_folder_and_others_do_not_meet(tmp_path: Path) -> None:
    names = [
        path.parent.name for path in saved(tmp_path / "images", "000123", "würfel-1", "a/b", "a_b", "a:b")
    ]
    assert {"000123", "würfel-1", "a_b"} <= set(names)
    assert len(set(names)) == 5
