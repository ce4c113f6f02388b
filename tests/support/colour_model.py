"""A model that looks at colours, and a similarity that measures texts: curation without an engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.metering.counters import EngineWork
from engine.records import (
    Answer,
    AnswerSettings,
    CaptionSettings,
    ImageSettings,
    ImageTokens,
    Question,
    SampledCaption,
    SampledImage,
)


class ColourModel:
    """Sees the mean colour of an image as one feature, captions by a counter, gives every image one code."""

    fingerprint = "colour"
    precision = "float32"
    work = EngineWork()

    def encode(self, images: np.ndarray) -> list[ImageTokens]:
        means = images.mean((1, 2)).astype("<f4")
        return [ImageTokens(codes=(int(mean.sum()),), features=mean.tobytes()) for mean in means]

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

    def generate_images(
        self, prompts: Sequence[str], n: int, keys: Sequence[str], seed: int, settings: ImageSettings
    ) -> list[list[SampledImage]]:
        return [[SampledImage(codes=(i,), seed=i) for i in range(n)] for _ in prompts]


class LengthSimilarity:
    """Texts as their lengths, on the unit circle."""

    name = "length"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        angles = np.array([len(text) / 100 for text in texts], np.float32)
        return np.stack((np.cos(angles), np.sin(angles)), 1)
