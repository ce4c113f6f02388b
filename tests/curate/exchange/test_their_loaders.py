"""Exports read back by the tools that they are for, where these are installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from curate.exchange.export import export_pairs
from curate.exchange.tokenizers import Tokenizers
from engine.records import Preference

datasets = pytest.importorskip("datasets")


def tool(name: str) -> ModuleType:
    """A module of a tool; without it, or without what it needs, the test is skipped."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name}: {error}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


def rows(path: Path, cache: Path) -> Any:
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache))


def test_trl_puts_the_image_into_the_prompt(
    folder: Path, tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    found = tool("trl.data_utils")
    export_pairs(preferences, folder, "trl", tokenizers, tmp_path)
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    for row in data:
        assert found.is_conversational(row)
        asked, answered = found.prepare_multimodal_messages(row["prompt"] + row["chosen"], row["images"])
        assert asked["content"][0]["image"] is row["images"][0]
        assert answered["content"][0]["text"] == "a red circle"


def test_llama_factory_converts_every_row_and_counts_one_image_in_each(
    folder: Path, tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    parser, converter = tool("llamafactory.data.parser"), tool("llamafactory.data.converter")
    plugins = tool("llamafactory.data.mm_plugin")
    export_pairs(preferences, folder, "llama-factory", tokenizers, tmp_path)
    (entry,) = parser.get_dataset_list(["hermes_captions"], str(folder))
    arguments = SimpleNamespace(media_dir=str(folder))
    convert = converter.get_dataset_converter(entry.formatting, entry, arguments)
    plugin = plugins.get_mm_plugin("base")
    data = rows(folder / entry.dataset_name, tmp_path / "cache")
    assert len(data) == 3
    for row in map(convert, data):
        win, lose = row["_response"]
        assert (win["content"], lose["content"]) == ("a red circle", "two blue squares")
        assert all(Path(name).is_file() for name in row["_images"])
        plugin._validate_messages(row["_prompt"] + [win], row["_images"], [], [])


def test_ms_swift_reads_both_files(
    folder: Path, tmp_path: Path, preferences: list[Preference], tokenizers: Tokenizers
) -> None:
    found = tool("swift.dataset")
    export_pairs(preferences, folder, "ms-swift", tokenizers, tmp_path)
    for name, field in (("captions.jsonl", "rejected_response"), ("images.jsonl", "rejected_images")):
        preprocess = found.AutoPreprocessor()
        data = preprocess(rows(folder / name, tmp_path / "cache"), load_from_cache_file=False)
        assert len(data) == 3
        assert all(row[field] for row in data)
        assert all(row["messages"][0]["content"].startswith("<image>") for row in data)
