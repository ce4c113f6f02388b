"""What CLIP sees of the real images is kept with the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from curate.config import CurateConfig
from curate.pipeline import curate
from curate.scorers import Scorers
from curate.shapes import world
from curate.sources import Source, load_source
from curate.store import PAIRS, read_records
from engine.feature_files import FEATURES, open_features
from engine.records import (
    Answer,
    AnswerSettings,
    CaptionSettings,
    ImageTokens,
    PaintSettings,
    Preference,
    Question,
    SampledCaption,
    SampledImage,
)
from engine.work import EngineWork


class ColourModel:
    """Sees the mean colour of an image as one feature, captions by a counter and paints one code."""

    fingerprint = "colour"
    precision = "float32"
    work = EngineWork()

    def encode(self, images: np.ndarray) -> list[ImageTokens]:
        means = images.mean((1, 2)).astype("<f4")
        return [ImageTokens(codes=(i,), features=mean.tobytes()) for i, mean in enumerate(means)]

    def decode(self, codes: Sequence[Sequence[int]]) -> np.ndarray:
        return np.zeros((len(codes), 48, 48, 3), np.uint8)

    def caption(
        self, images: Sequence[ImageTokens], keys: Sequence[str], seed: int, plan: Sequence[CaptionSettings]
    ) -> list[list[SampledCaption]]:
        return [
            [SampledCaption(text="x" * i, token_ids=(i,), logprobs=(), seed=i) for i, _ in enumerate(plan)]
            for _ in images
        ]

    def answer(
        self, images: Sequence[ImageTokens], questions: Sequence[Sequence[Question]], settings: AnswerSettings
    ) -> list[list[Answer]]:
        return [[Answer(text="yes") for _ in asked] for asked in questions]

    def paint(
        self, prompts: Sequence[str], n: int, keys: Sequence[str], seed: int, settings: PaintSettings
    ) -> list[list[SampledImage]]:
        return [[SampledImage(codes=(i,), seed=i) for i in range(n)] for _ in prompts]


class LengthSimilarity:
    """Texts as their lengths, on the unit circle."""

    name = "length"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        angles = np.array([len(text) / 100 for text in texts], np.float32)
        return np.stack((np.cos(angles), np.sin(angles)), 1)


def curated(folder: Path, source: Source) -> list[Preference]:
    config = CurateConfig(n=2, limit=4, chunk=2)
    scorers = Scorers(LengthSimilarity(), LengthSimilarity())
    curate(ColourModel(), scorers, source, config, folder, 1, 0, {}, lambda done, note: None)
    return list(read_records(folder / PAIRS, Preference))


def test_every_preference_names_the_features_of_its_real_image(tmp_path: Path) -> None:
    source = load_source("shapes", "train", 4, 0, 48)
    found = curated(tmp_path, source)
    assert len(found) == 4
    for one in found:
        assert one.captions
        (seen,) = open_features(tmp_path / FEATURES, one.image_features, 1, 3)
        np.testing.assert_array_equal(seen, world.image_of(one.id).mean((0, 1)).astype("<f4"))
    assert len(list((tmp_path / FEATURES).iterdir())) == len({one.image_features for one in found})


def test_features_do_not_depend_on_where_a_killed_curation_went_on(tmp_path: Path) -> None:
    source = load_source("shapes", "train", 4, 0, 48)
    curated(tmp_path / "a", msgspec.structs.replace(source, items=source.items[:2]))
    assert curated(tmp_path / "a", source) == curated(tmp_path / "b", source)
