"""What of a text fits into a checkpoint's sequences; nothing but its configuration and tokenizer is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.checkpoints.weights import load_config
from engine.errors import ConfigError
from engine.records import CaptionSettings
from engine.tokenizers.text import TextTokenizer


class TextLimits:
    """The limits of one checkpoint.

    Raises (constructor):
        CheckpointError: config.json or tokenizer.json is missing or broken.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._config, self._text = load_config(checkpoint), TextTokenizer.load(checkpoint / "tokenizer.json")

    def cuts(self, prompt: str) -> bool:
        """Whether image generation, in sampling as in training, reads the beginning of a prompt alone."""
        ids, words = self._text.encode(prompt), self._config.vocabulary
        return words.t2i_text(ids, self._config.max_text_len) != words.t2i_text(ids, len(ids) + 2)

    def require_room(self, plan: Sequence[CaptionSettings]) -> None:
        """Refuses captions that fit behind no image.

        Raises:
            ConfigError: one may be longer than the model has positions left.
        """
        prompt = len(self._text.encode(self._config.caption_prompt))
        room = self._config.max_position_embeddings - self._config.prefix_length - 1 - prompt
        if (longest := max(one.max_tokens for one in plan)) > room:
            raise ConfigError(
                f"curate.caption.max_tokens is {longest}; behind an image and the caption prompt the model "
                f"has room for {room} tokens"
            )
