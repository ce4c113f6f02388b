"""What CLIP sees of the real images is kept with the pairs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from colour_model import ColourModel, LengthSimilarity
from curating import curate_here

from curate.config import CurateConfig
from curate.scoring.scorers import Scorers
from curate.shapes import world
from curate.sources import Source, load_source
from curate.store.files import PAIRS, read_records
from engine.files.clip_features import FEATURES, open_features
from engine.records import Preference


def curated(folder: Path, source: Source) -> list[Preference]:
    config = CurateConfig(n=2, limit=4, chunk=2)
    scorers = Scorers(LengthSimilarity(), LengthSimilarity())
    curate_here(ColourModel(), scorers, source, config, folder)
    return list(read_records(folder / PAIRS, Preference))


def test_every_preference_names_the_features_of_its_real_image(tmp_path: Path) -> None:
    source = load_source("shapes", "train", 4, 0, 48)
    found = curated(tmp_path, source)
    assert len(found) == 4
    for one in found:
        assert one.captions
        (seen,) = open_features(tmp_path / FEATURES, one.image_features, one.image_codes, 1, 3)
        np.testing.assert_array_equal(seen, world.image_of(one.id).mean((0, 1)).astype("<f4"))
    assert len(list((tmp_path / FEATURES).iterdir())) == len({one.image_features for one in found})


def test_features_do_not_depend_on_where_a_killed_curation_went_on(tmp_path: Path) -> None:
    source = load_source("shapes", "train", 4, 0, 48)
    curated(tmp_path / "a", msgspec.structs.replace(source, limit=2))
    assert curated(tmp_path / "a", source) == curated(tmp_path / "b", source)
