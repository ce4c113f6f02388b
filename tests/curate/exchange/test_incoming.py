"""Rows of any content: read, or refused with a reason, never a crash."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.exchange.incoming import READERS, IncomingRow, UnusableError, detect_format

NAMES = st.sampled_from(
    [
        "id",
        "img_path",
        "image",
        "images",
        "file_names",
        "prompt",
        "question",
        "caption",
        "caption_win",
        "caption_lose",
        "bert_score_win",
        "bert_score_lose",
        "image_win",
        "image_lose",
        "vqa_score_win",
        "vqa_score_lose",
        "chosen",
        "rejected",
        "better_image",
        "worse_image",
        "better_response",
        "worse_response",
        "record",
        "features",
        "tokenizers",
        "image_codes",
        "content",
        "type",
        "text",
        "bytes",
        "path",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=4)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("form", READERS)
@settings(max_examples=150)
@given(fields=st.dictionaries(NAMES, VALUES, max_size=8))
def test_any_row_is_read_or_refused_with_a_reason(form: str, fields: dict[str, object]) -> None:
    try:
        found = READERS[form](fields)
    except UnusableError as error:
        found = error
    if isinstance(found, UnusableError):
        assert str(found)
        return
    assert isinstance(found, IncomingRow)
    if found.captions and not isinstance(found.captions, str):
        assert found.captions.win.strip()
        assert found.captions.win != found.captions.lose
        assert found.captions.scores[0] >= found.captions.scores[1]


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"id": 1, "img_path": "a.png", "caption_win": "a", "image_win": "b.png"}, "official"),
        ({"id": "1", "image": {}, "caption_win": "a", "record": "{}"}, "parquet"),
        ({"id": "1", "image": {}, "caption_win": "a"}, "parquet"),
        ({"prompt": [], "chosen": [], "rejected": [], "images": []}, "trl"),
        (
            {"question": "?", "image": "a.png", "better_response": "a", "worse_response": "b"},
            "align-anything",
        ),
        ({"prompt": "a", "better_image": "a.png", "worse_image": "b.png"}, "align-anything"),
        ({"id": "1", "image_codes": [], "captions": None, "images": None}, "native"),
        ({"messages": [], "images": [], "rejected_response": "a"}, ""),
    ],
)
def test_the_fields_say_the_format(fields: dict[str, object], form: str) -> None:
    assert detect_format(fields) == form
