"""An external judge of images: TIFA questions about pixels, put to an OpenAI-compatible endpoint."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curate.config import JudgeConfig
from curate.scoring.endpoint import Endpoint
from engine.records import Answer, Question

SEED = 0


class Judge:
    """Answers questions about images, each in a request of its own at temperature 0."""

    def __init__(self, config: JudgeConfig) -> None:
        """Raises ConfigError where the variable of the key is not set."""
        self._config, self._endpoint = config, Endpoint(config)

    @property
    def origin(self) -> dict[str, object]:
        """What decides the answers, as it is stored with them."""
        return {**self._endpoint.origin, "max_tokens": self._config.max_tokens}

    def answer(
        self, images: NDArray[np.uint8], questions: Sequence[Sequence[Question]]
    ) -> list[list[Answer]]:
        """Every image's questions as free texts; images uint8 [B, H, W, 3].

        Raises:
            EngineError: the endpoint cannot be reached, refuses a request, or answers with something else.
        """
        requests = [
            request(self._config, picture, question)
            for picture, row in zip(map(data_url, images), questions, strict=True)
            for question in row
        ]
        texts = iter(self._endpoint.texts(requests))
        return [[Answer(text=next(texts)) for _ in row] for row in questions]


def request(config: JudgeConfig, picture: str, question: Question) -> dict[str, object]:
    """The body of one chat completion about a picture, a data URL of a PNG."""
    text = (
        f"Question: {question.question}\nChoices: {', '.join(question.choices)}\n"
        "Look at the image and answer with one of the choices, in exactly its words."
    )
    return {
        "temperature": 0,
        "seed": SEED,
        "max_tokens": config.max_tokens,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": picture}},
                    {"type": "text", "text": text},
                ],
            }
        ],
    }


def data_url(image: NDArray[np.uint8]) -> str:
    """An image uint8 [H, W, 3] as a data URL of a PNG."""
    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
