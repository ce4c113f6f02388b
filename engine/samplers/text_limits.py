"""How much of a prompt image generation reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.checkpoints.weights import load_config
from engine.tokenizers.text import TextTokenizer


def prompt_cutter(checkpoint: Path) -> Callable[[str], bool]:
    """Tells of a prompt whether a checkpoint, in sampling as in training, reads its beginning alone.

    Raises:
        CheckpointError: config.json or tokenizer.json is missing or broken.
    """
    config, text = load_config(checkpoint), TextTokenizer.load(checkpoint / "tokenizer.json")
    words, longest = config.vocabulary, config.max_text_len

    def cuts(prompt: str) -> bool:
        ids = text.encode(prompt)
        return words.t2i_text(ids, longest) != words.t2i_text(ids, len(ids) + 2)

    return cuts
