"""The question that a caption answers, in words that any model's chat template can take."""

from __future__ import annotations

import re

DEFAULT = "Give a caption for this image."
"""Stands where a model's caption prompt holds markers alone."""
PLACEHOLDER = "<image>"
"""What ms-swift and LLaMA-Factory replace by an image, wherever it stands in a text."""
_USER, _ASSISTANT = re.compile(r"^\s*USER:\s*"), re.compile(r"\s*ASSISTANT:\s*$")


def caption_question(caption_prompt: str) -> str:
    """A caption prompt without Show-o's chat markers: a leading `USER:` and a trailing `ASSISTANT:`.

    Other trainers put their own model's markers around the question.
    """
    return _ASSISTANT.sub("", _USER.sub("", caption_prompt)).strip() or DEFAULT
