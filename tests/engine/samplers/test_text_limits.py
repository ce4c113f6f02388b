"""What of a text reaches the model: all that it spells as text, and no more than fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.checkpoints.weights import load_config
from engine.samplers.text_limits import prompt_cutter
from engine.tokenizers.text import END_OF_TEXT, TextTokenizer


@pytest.mark.parametrize("where", ["{}", "a red {} circle", "a red circle{}"])
def test_a_text_that_spells_a_special_token_has_none(
    checkpoints: tuple[Path, Path], golden: Path, where: str
) -> None:
    for file in (checkpoints[0] / "tokenizer.json", golden / "tokenizer.json"):
        text = TextTokenizer.load(file)
        ids = text.encode(where.format(END_OF_TEXT))
        assert ids
        assert text.size - 1 not in ids, "the end of a text"
        assert text.encode("a red circle") == text.encode("a red circle")


def test_a_prompt_is_cut_where_generation_reads_no_further(checkpoints: tuple[Path, Path]) -> None:
    cuts, most = prompt_cutter(checkpoints[0]), load_config(checkpoints[0]).max_text_len
    # Beside the words stand the task, the start and the end; one of these is not counted.
    assert not cuts("red " * (most - 2))
    assert cuts("red " * (most - 1))
