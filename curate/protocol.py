"""What curation needs of a model. The vLLM engine is one; curation never imports it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.metering.counters import EngineWork
from engine.records import (
    Answer,
    AnswerSettings,
    CaptionSettings,
    ImageTokens,
    PaintSettings,
    Question,
    SampledCaption,
    SampledImage,
    TextPrompt,
)


class UnifiedModel(Protocol):
    """Understands images and paints them. B images, n candidates."""

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

    def paint(
        self, prompts: Sequence[str], n: int, keys: Sequence[str], seed: int, settings: PaintSettings
    ) -> list[list[SampledImage]]:
        """n images for each prompt; `keys` and `seed` decide every draw."""
        ...


class TextModel(Protocol):
    """Goes on from texts."""

    @property
    def fingerprint(self) -> str:
        """Digest of what decides its texts: weights, configuration, tokenizer, arithmetic."""
        ...

    @property
    def reserved(self) -> tuple[str, ...]:
        """Texts that its tokenizer takes for control tokens; data must not contain them."""
        ...

    def generate(
        self,
        prompts: Sequence[TextPrompt],
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """What follows each prompt, up to `max_tokens` tokens or the first text of `stop`, which is cut off.

        Greedy at temperature 0; else seed and prompt decide every draw. Empty for a prompt that is too long.
        """
        ...
