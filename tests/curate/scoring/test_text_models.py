"""Text models from folders: the official script's BERT, sentence models, and what is refused."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from tiny_bert import WORDS, write_bert, write_sentence_model
from transformers import BertModel, BertTokenizer

from curate.scoring.model_folders import default_similarity, folder_digest
from curate.scoring.similarity import (
    CACHED_VECTORS,
    Similarity,
    TextEncoder,
    caption_scores,
    load_similarity,
    matcher_name,
)
from engine.errors import DataError, EngineError

TEXTS = ["a red circle", "Three BLUE squares, and a circle!", "", "no", "left of " * 400]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_model(tmp_path_factory.mktemp("models") / "tiny-sentence")


@pytest.fixture(scope="module")
def served(bert: Path, sentence: Path) -> dict[str, Similarity]:
    """One of each kind, with whatever they have embedded before."""
    names = (f"bert-cls:{bert}", f"bert-mean:{bert}", str(sentence))
    return {name.partition(":")[0] if ":" in name else "sentence": load_similarity(name) for name in names}


def hidden_states(folder: Path, text: str, longest: int = 512) -> torch.Tensor:
    """[T, D] of one text by transformers' own classes, called as the official script calls them."""
    tokenizer = BertTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, return_tensors="pt", truncation=True, padding=True, max_length=longest)
    with torch.no_grad():
        outputs = BertModel.from_pretrained(folder)(**inputs)
    return outputs["last_hidden_state"][0]


@pytest.mark.parametrize("text", TEXTS)
def test_bert_cls_is_the_last_layer_at_cls_as_in_the_official_script(
    bert: Path, served: dict[str, Similarity], text: str
) -> None:
    expected = hidden_states(bert, text)[0].numpy()
    (found,) = served["bert-cls"].embed([text])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=2e-6)


def test_caption_scores_by_bert_cls_are_the_official_cosines(
    bert: Path, served: dict[str, Similarity]
) -> None:
    vectors = [hidden_states(bert, text)[0].numpy() for text in TEXTS]
    expected = [1 - cosine(vectors[0], other) for other in vectors]
    found = caption_scores(served["bert-cls"], TEXTS[0], TEXTS)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.ptp(found) > 0.1


@pytest.mark.parametrize("text", TEXTS)
def test_bert_mean_is_the_mean_over_all_tokens(bert: Path, served: dict[str, Similarity], text: str) -> None:
    expected = hidden_states(bert, text).mean(0).numpy()
    (found,) = served["bert-mean"].embed([text])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=2e-6)


@pytest.mark.parametrize("text", TEXTS)
def test_a_sentence_model_pools_and_truncates_as_its_folder_says(
    sentence: Path, served: dict[str, Similarity], text: str
) -> None:
    expected = hidden_states(sentence, text, longest=64).mean(0).numpy()
    (found,) = served["sentence"].embed([text])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=2e-6)


@pytest.mark.parametrize("kind", ["bert-cls", "bert-mean", "sentence"])
def test_a_vector_is_the_same_bit_for_bit_whatever_it_is_embedded_with(
    bert: Path, sentence: Path, served: dict[str, Similarity], kind: str
) -> None:
    draw = random.Random(kind)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, 30))) for _ in range(40)]
    alone = load_similarity(str(sentence) if kind == "sentence" else f"{kind}:{bert}")
    expected = np.concatenate([alone.embed([text]) for text in texts])
    assert np.array_equal(served[kind].embed(texts), expected)


class Counted:
    """A text model that remembers what it encodes."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, text: str, *, normalize_embeddings: bool, show_progress_bar: bool) -> np.ndarray:
        self.encoded.append(text)
        return np.array([len(text), 1.0], np.float32)


def test_a_text_is_encoded_once() -> None:
    model = Counted()
    encoder = TextEncoder("counted", model)  # type: ignore[arg-type]
    found = encoder.embed(["ab", "c", "ab"])
    assert np.array_equal(encoder.embed(["c", "ab"]), found[[1, 0]])
    assert np.array_equal(found[0], found[2])
    assert model.encoded == ["ab", "c"]


def test_a_vector_is_forgotten_where_many_came_since() -> None:
    model = Counted()
    encoder = TextEncoder("counted", model)  # type: ignore[arg-type]
    for start in range(0, 2 * CACHED_VECTORS, 512):
        encoder.embed([str(number) for number in range(start, start + 512)])
    encoder.embed([str(2 * CACHED_VECTORS - 1), str(CACHED_VECTORS), "0", str(CACHED_VECTORS - 1)])
    # The latest are known, and of those before them each is encoded again.
    assert model.encoded[2 * CACHED_VECTORS :] == ["0", str(CACHED_VECTORS - 1)]


def test_a_folders_default_prompt_stands_before_every_text(sentence: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sentence, tmp_path / "prompted")
    settings = {"prompts": {"query": "left of the "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (found,) = load_similarity(str(folder)).embed(["red circle"])
    (expected,) = load_similarity(str(sentence)).embed(["left of the red circle"])
    assert np.array_equal(found, expected)


def test_memory_that_runs_out_is_one_line() -> None:
    class Crowded(Counted):
        def encode(self, text: str, **how: object) -> np.ndarray:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(EngineError, match=r"embedding texts: the device's memory ran out \(CUDA out of"):
        TextEncoder("crowded", Crowded()).embed(["a"])  # type: ignore[arg-type]


def test_vectors_have_length_one(served: dict[str, Similarity]) -> None:
    for similarity in served.values():
        np.testing.assert_allclose(np.linalg.norm(similarity.embed(TEXTS), axis=1), 1, atol=1e-6)


def test_a_name_holds_a_digest_that_changes_with_the_weights(bert: Path, tmp_path: Path) -> None:
    same = shutil.copytree(bert, tmp_path / "a/tiny-bert")
    other = write_bert(tmp_path / "b/tiny-bert", seed=1)
    names = [load_similarity(f"bert-cls:{folder}").name for folder in (bert, same, other)]
    assert names[0] == names[1] != names[2]
    assert {name.partition("@")[0] for name in names} == {"bert-cls:tiny-bert"}
    assert load_similarity(f"bert-mean:{bert}").name.startswith("bert-mean:tiny-bert@")
    assert load_similarity("minilm").name.startswith("all-MiniLM-L6-v2@")


@pytest.mark.parametrize("changed", ["tokenizer_config.json", "1_Pooling/config.json"])
def test_a_digest_covers_what_decides_a_vector_and_nothing_else(
    sentence: Path, tmp_path: Path, changed: str
) -> None:
    copy = shutil.copytree(sentence, tmp_path / "copy")
    (copy / "README.md").write_text("of no matter")
    assert folder_digest(copy) == folder_digest(sentence)
    (copy / changed).write_text((copy / changed).read_text() + " ")
    assert folder_digest(copy) != folder_digest(sentence)


def test_mpnet_is_the_default_where_its_folder_is_named(
    sentence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_MPNET", str(sentence))
    assert default_similarity() == "mpnet"
    assert load_similarity("").name == f"all-mpnet-base-v2@{folder_digest(sentence)}"
    assert matcher_name("bert-cls:anything") == "mpnet"


def test_mpnet_is_found_in_the_local_cache_and_nothing_is_downloaded(sentence: Path, tmp_path: Path) -> None:
    probe = (
        "from curate.scoring.model_folders import default_similarity, sentence_folder\n"
        "from engine.errors import DataError\n"
        "print(default_similarity())\n"
        "try:\n    print(sentence_folder('mpnet'))\n"
        "except DataError as error:\n    print(error)\n"
    )
    revision = "0" * 40
    cache = tmp_path / "hub/models--sentence-transformers--all-mpnet-base-v2"
    environment = {"HF_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}

    def printed() -> list[str]:
        command = [sys.executable, "-c", probe]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    default, found = printed()
    assert default == "minilm"
    assert found.startswith("all-mpnet-base-v2 is not on this machine: set HERMES_MPNET")
    stored = shutil.copytree(sentence, cache / "snapshots" / revision)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(revision)
    assert printed() == ["mpnet", str(stored)]
    (stored / "model.safetensors").unlink()
    assert printed()[0] == "minilm"


def test_what_is_no_model_is_refused_with_what_to_do(bert: Path, sentence: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in (str(empty), f"bert-cls:{tmp_path / 'nowhere'}", "bert-mean:"):
        with pytest.raises(DataError, match=r"no config\.json.*minilm, mpnet, a folder, bert-cls:DIR"):
            load_similarity(name)
    pickled = shutil.copytree(bert, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    for name in (str(pickled), f"bert-cls:{pickled}"):
        with pytest.raises(DataError, match="no weights in safetensors"):
            load_similarity(name)
    other = shutil.copytree(bert, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(DataError, match="model_type 'gpt2', not 'bert'"):
        load_similarity(f"bert-cls:{other}")
    torn = shutil.copytree(sentence, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be loaded as a text model") as error:
        load_similarity(str(torn))
    assert "\n" not in str(error.value)


def test_a_bert_without_all_its_weights_is_refused_rather_than_made_up(bert: Path, tmp_path: Path) -> None:
    part = shutil.copytree(bert, tmp_path / "part")
    config = json.loads((part / "config.json").read_text())
    (part / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(DataError, match=r"the weights lack \d+ tensors, the first encoder\.layer\.2"):
        load_similarity(f"bert-cls:{part}")


def test_answers_are_matched_by_a_sentence_model_where_a_plain_bert_scores_captions(sentence: Path) -> None:
    assert matcher_name("bert-cls:x") == matcher_name("bert-mean:x") == default_similarity()
    assert matcher_name(str(sentence)) == str(sentence)
    assert matcher_name("minilm") == "minilm"
