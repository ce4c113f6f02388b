"""Serving in another floating-point type than float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import EngineError
from engine.machine.precision import SERVED, serving_dtype
from engine.records import AnswerSettings, CaptionSettings, ImageSettings, ImageTokens, Question

pytest.importorskip("vllm")


def test_a_named_type_is_taken_and_an_unknown_one_refused() -> None:
    assert [serving_dtype(name) for name in SERVED] == list(SERVED)
    with pytest.raises(
        EngineError, match="dtype 'int8' is not served; take default, auto, float32 or bfloat16"
    ):
        serving_dtype("int8")


@pytest.mark.parametrize(("amx", "avx512"), [(True, False), (False, True), (False, False)])
def test_auto_follows_the_hardware(monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool) -> None:
    able = {"amx_tile": amx, "avx512_bf16": avx512}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert serving_dtype("auto") == ("bfloat16" if amx or avx512 else "float32")


def test_bfloat16_serves_all_that_float32_does_and_stays_near_it(
    checkpoints: tuple[Path, Path], images: list[ImageTokens]
) -> None:
    from engine.serving.engine import Engine

    texts = ["a red circle", "two blue square", "three"]
    question = Question(question="how many?", choices=("two", "three red"), answer="two", kind="")
    likelihood = AnswerSettings(mode="likelihood")
    found = []
    for dtype in ("float32", "bfloat16"):
        with Engine(checkpoints[0], dtype=dtype, kv_cache_gib=0.125) as engine:
            assert engine.precision == dtype
            scores = [logp for row in engine.score(images[:3], texts) for logp in row]
            answers = engine.answer(images[:3], [[question]] * 3, likelihood)
            scores += [logp for row in answers for one in row for logp in one.choice_logps]
            greedy = CaptionSettings(temperature=0.0, max_tokens=6)
            captions = engine.caption(images[:3], ["a", "b", "c"], 0, [greedy, CaptionSettings(max_tokens=6)])
            scores += [row[0].logprobs[0] for row in captions]
            generated = engine.generate_images(
                ["a red circle"], 3, ["x"], 0, ImageSettings(steps=4, guidance=2.0)
            )
            assert all(0 <= code < 64 for one in generated[0] for code in one.codes)
            found.append(torch.tensor(scores))
    difference = (found[0] - found[1]).abs()
    assert 0 < difference.max() < 0.15 * found[0].abs().max()
