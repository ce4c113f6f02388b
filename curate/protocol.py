"""What curation needs of a model. The vLLM engine is one; curation never imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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


class UnifiedModel(Protocol):
    """Understands images and generates them. B images, n candidates."""

    @property
    def fingerprint(self) -> str:
        """Digest of the weights that serve."""
        ...

    @property
    def precision(self) -> str:
        """The floating-point type of the arithmetic."""
        ...

    @property
    def work(self) -> EngineWork:
        """What the model has done so far, and how long it took."""
        ...

    def encode(self, images: NDArray[np.uint8]) -> list[ImageTokens]:
        """uint8 [B, H, W, 3] -> B token records."""
        ...

    def decode(self, codes: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """B rows of codes -> uint8 [B, H, W, 3]."""
        ...

    def caption(
        self, images: Sequence[ImageTokens], keys: Sequence[str], seed: int, plan: Sequence[CaptionSettings]
    ) -> list[list[SampledCaption]]:
        """A caption of each image for each entry of the plan; `keys` and `seed` decide every draw."""
        ...

    def answer(
        self, images: Sequence[ImageTokens], questions: Sequence[Sequence[Question]], settings: AnswerSettings
    ) -> list[list[Answer]]:
        """The answer to every question about every image."""
        ...

    def generate_images(
        self, prompts: Sequence[str], n: int, keys: Sequence[str], seed: int, settings: ImageSettings
    ) -> list[list[SampledImage]]:
        """n images for each prompt; `keys` and `seed` decide every draw."""
        ...


class TextModel(Protocol):
    """Answers requests with texts."""

    @property
    def origin(self) -> object:
        """Who answers."""
        ...

    def texts(self, requests: Sequence[Mapping[str, Any]]) -> list[str]:
        """The text that answers each request, the body of an OpenAI-compatible completion."""
        ...
