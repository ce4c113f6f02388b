"""Pairs of a model that understands CLIP features: they travel with the table, or are seen anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from curate.exchange.export import export_pairs
from curate.exchange.importing import import_pairs
from curate.exchange.tokenizers import Tokenizers
from curate.store.files import PAIRS, read_records, write_records
from engine.errors import DataError
from engine.files.clip_features import FEATURES, open_features, save_features
from engine.files.layout import CLIP_FOLDER
from engine.models.showo_config import ShowoConfig
from engine.records import CaptionCandidate, CaptionPair, ImageTokens, Preference
from engine.tokenizers.image import PatchLfq, PatchLfqConfig, save_image_tokenizer
from engine.tokenizers.text import word_tokenizer

TOKENS, WIDTH = 16, 24


@pytest.fixture(scope="module")
def clip_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    """Small random tokenizers and a tower of 16 patches."""
    folder = tmp_path_factory.mktemp("clip") / "checkpoint"
    torch.manual_seed(0)
    text = word_tokenizer(["a red circle two blue squares"])
    save_image_tokenizer(PatchLfq(PatchLfqConfig(image_size=24, bits=5, width=8)), folder / "image_tokenizer")
    text.save(folder / "tokenizer.json")
    sizes = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=8))
    tower.save_pretrained(folder / CLIP_FOLDER)
    config = ShowoConfig(
        hidden_size=32,
        num_attention_heads=2,
        text_vocab_size=text.size,
        codebook_size=32,
        num_image_tokens=9,
        bos_token_id=text.size - 1,
        w_clip_vit=True,
        clip_tokens=TOKENS,
        clip_size=WIDTH,
    )
    config.architectures = ["ShowoForUnifiedGeneration"]
    config.save_pretrained(folder)
    return Tokenizers(folder)


@pytest.fixture
def preference(clip_tokenizers: Tokenizers, curation: Path) -> Preference:
    """A caption pair whose features lie in the curation's folder."""
    seen = clip_tokenizers.image_tokens(Image.linear_gradient("L").convert("RGB"), seen=True)
    texts = ("a red circle", "two blue squares")
    win, lose = (
        CaptionCandidate(index=i, text=text, token_ids=clip_tokenizers.token_ids(text), seed=i, score=1.0 - i)
        for i, text in enumerate(texts)
    )
    return Preference(
        id="a",
        caption="a circle",
        image_codes=seen.codes,
        captions=CaptionPair(win=win, lose=lose, win_round=1, lose_round=1),
        images=None,
        image_features=save_features(curation / FEATURES, seen),
    )


def test_the_table_carries_the_very_features(
    tmp_path: Path, curation: Path, preference: Preference, clip_tokenizers: Tokenizers
) -> None:
    export_pairs([preference], tmp_path / "out", "parquet", clip_tokenizers, curation)
    import_pairs(tmp_path / "out", tmp_path / "again", clip_tokenizers, 1)
    (found,) = read_records(tmp_path / "again" / PAIRS, Preference)
    assert found == preference
    kept, theirs = (
        open_features(one / FEATURES, found.image_features, found.image_codes, TOKENS, WIDTH)
        for one in (curation, tmp_path / "again")
    )
    assert (kept == theirs).all()


def test_pictures_of_other_layouts_are_seen_anew(
    tmp_path: Path, curation: Path, preference: Preference, clip_tokenizers: Tokenizers
) -> None:
    export_pairs([preference], tmp_path / "out", "trl", clip_tokenizers, curation)
    import_pairs(tmp_path / "out", tmp_path / "again", clip_tokenizers, 1)
    (found,) = read_records(tmp_path / "again" / PAIRS, Preference)
    seen = ImageTokens(
        codes=found.image_codes,
        features=(tmp_path / "again" / FEATURES / found.image_features).read_bytes(),
    )
    (picture,) = (tmp_path / "out").rglob("*.png")
    with Image.open(picture) as image:
        assert seen == clip_tokenizers.image_tokens(image, seen=True)


def test_native_lines_alone_lack_the_features(
    tmp_path: Path, preference: Preference, clip_tokenizers: Tokenizers
) -> None:
    write_records(tmp_path / "pairs.jsonl", [preference])
    with pytest.raises(DataError, match="the CLIP features of the real image are missing"):
        import_pairs(tmp_path / "pairs.jsonl", tmp_path / "again", clip_tokenizers, 1)


def test_missing_features_stop_an_export_and_leave_no_folder(
    tmp_path: Path, curation: Path, preference: Preference, clip_tokenizers: Tokenizers
) -> None:
    for name in ("gone.f32", "../../secret"):
        with pytest.raises(DataError, match="CLIP features of a real image are missing"):
            export_pairs(
                [replace(preference, image_features=name)],
                tmp_path / "out",
                "parquet",
                clip_tokenizers,
                curation,
            )
    assert not (tmp_path / "out").exists()
