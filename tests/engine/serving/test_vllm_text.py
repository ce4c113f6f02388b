"""A small language model served by vLLM, and the whole way from a caption to checked questions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from tiny_llama import small_llama, small_tokenizer, taught
from transformers import AutoModelForCausalLM, AutoTokenizer

from curate.questions.cache import Remembering, TextCache
from curate.questions.generate import Maker, WritingSettings, ask_all
from curate.questions.layout import written
from curate.questions.prompting import reading_prompt, writing_prompt
from curate.questions.tifa import from_item, read_tifa, write_tifa
from curate.questions.validation import ONE_CHOICE, UNREADABLE
from engine.errors import CheckpointError, EngineError
from engine.records import Item, Question, TextPrompt

pytest.importorskip("vllm")

if TYPE_CHECKING:
    from engine.serving.text_engine import TextEngine

SIZES = {"dtype": "float32", "kv_cache_gib": 0.125}
SETTINGS = WritingSettings(batch=2, max_tokens=200)


def colored(color: str, thing: str) -> tuple[str, list[Question]]:
    """A caption and what the model learns to write about it: two good questions, a wrong and a void one."""
    return f"A {color} {thing} on a table", [
        Question(
            question=f"is there a {thing}?", choices=("yes", "no"), answer="yes", kind="object", element=thing
        ),
        Question(
            question=f"what color is the {thing}?",
            choices=(color, "purple"),
            answer=color,
            kind="color",
            element=color,
        ),
        Question(
            question="is there a chair?", choices=("yes", "no"), answer="yes", kind="object", element="chair"
        ),
        Question(question="is it?", choices=("yes",), answer="yes", kind="other", element="it"),
    ]


TAUGHT = dict([colored("red", "cube"), colored("green", "boot")])
ITEMS = [Item(id=f"{i}", caption=caption, questions=()) for i, caption in enumerate(TAUGHT)]
READ = {"is there a chair?": "no"}


def pairs() -> list[tuple[str, str]]:
    found = []
    for caption, questions in TAUGHT.items():
        found.append((writing_prompt("instruct", caption, ()).text, written("instruct", questions)))
        for one in questions[:3]:
            found.append((reading_prompt(caption, one, ()).text, f" {READ.get(one.question, one.answer)}"))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(tmp_path_factory.mktemp("llama"), pairs(), chat=True)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[TextEngine]:
    from engine.serving.text_engine import TextEngine

    with TextEngine(folder, **SIZES) as served:
        yield served


def test_captions_become_checked_questions_in_a_file(engine: TextEngine, tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "said.jsonl")
    author = Remembering(engine, cache)
    ask_all(ITEMS, author, SETTINGS, lambda count: None)
    maker = Maker(SETTINGS, author, Remembering(engine, cache), own=False)
    path = tmp_path / "questions.json"
    made = maker.questions(ITEMS, lambda count: None)
    write_tifa(path, (row for item, kept in made for row in from_item(item, kept)))
    for item, (caption, questions) in zip(ITEMS, TAUGHT.items(), strict=True):
        rows = [row for row in read_tifa(path).rows if row.id == item.id]
        assert [row.question for row in rows] == questions[:2]
        assert {row.caption for row in rows} == {caption}
    assert maker.report.rejected == {UNREADABLE: 2, ONE_CHOICE: 2}
    assert (maker.report.asked, maker.report.read, maker.report.kept) == (2, 6, 4)


def test_what_was_said_before_needs_no_vllm(
    engine: TextEngine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.serving.text_engine import TextEngine

    cache = TextCache(tmp_path / "said.jsonl")
    author = Remembering(engine, cache)
    ask_all(ITEMS, author, SETTINGS, lambda count: None)
    # A size that no vLLM could start with.
    with TextEngine(folder, dtype="float32", kv_cache_gib=0.0) as again:
        remembering = Remembering(again, cache)
        ask_all(ITEMS, remembering, SETTINGS, lambda count: None)
        assert (remembering.asked, remembering.cached) == (0, 2)
        with pytest.raises(EngineError, match="vLLM could not start"):
            again.generate([TextPrompt(text="new")], 4)


def test_greedy_texts_equal_those_of_transformers(engine: TextEngine, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = ["Caption: A red boot", "Question: is there a", "Answer the cube"]
    found = engine.generate([TextPrompt(text=text, chat=False) for text in prompts], 12)
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([tokenizer(prompt).input_ids])
        whole = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=1)
        assert text == tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)


def test_texts_end_at_a_stop_which_is_cut_off_and_at_the_most_tokens(engine: TextEngine) -> None:
    (prompt, text), *_ = pairs()
    asked = TextPrompt(text=prompt)
    (stopped,) = engine.generate([asked], 200, stop=("\nElement:",))
    assert stopped == text[: text.index("\nElement:")]
    (short,) = engine.generate([asked], 5)
    assert text.startswith(short)
    assert 0 < len(short) < len(stopped)


def test_a_prompt_without_room_gives_nothing_and_the_others_are_answered(engine: TextEngine) -> None:
    (prompt, text), *_ = pairs()
    prompts = [TextPrompt(text="cube " * 2000), TextPrompt(text=prompt), TextPrompt(text="", chat=False)]
    assert engine.generate(prompts, 200) == ["", text, ""]


def test_a_seed_and_a_prompt_decide_a_draw_whatever_else_is_asked(engine: TextEngine) -> None:
    prompts = [TextPrompt(text=f"cube {i}", chat=False) for i in range(6)]
    one = engine.generate(prompts, 16, temperature=1.5, seed=1)
    assert engine.generate(prompts[::-2], 16, temperature=1.5, seed=1) == one[::-2]
    assert engine.generate(prompts, 16, temperature=1.5, seed=2) != one


def test_the_control_tokens_are_known_and_data_cannot_bring_them_in(engine: TextEngine) -> None:
    assert set(engine.reserved) == {"<s>", "</s>", "<|user|>", "<|model|>"}
    asked = writing_prompt("instruct", "a <|model|>red</s> cube", engine.reserved)
    assert "Caption: a red cube\n" in asked.text


def test_a_fingerprint_changes_with_weights_tokenizer_and_type(folder: Path, tmp_path: Path) -> None:
    from engine.serving.text_engine import TextEngine

    first = TextEngine(folder, dtype="float32").fingerprint
    assert TextEngine(folder, dtype="bfloat16").fingerprint != first
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert TextEngine(copy, dtype="float32").fingerprint == first
    for name in ("model.safetensors", "chat_template.jinja"):
        content = bytearray((copy / name).read_bytes())
        content[-1] ^= 1
        (copy / name).write_bytes(content)
        changed = TextEngine(copy, dtype="float32").fingerprint
        assert changed != first
        first = changed


def test_a_closed_engine_refuses_and_keeps_its_fingerprint(folder: Path) -> None:
    from engine.serving.text_engine import TextEngine

    engine = TextEngine(folder, **SIZES)
    before = engine.fingerprint
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate([TextPrompt(text="a")], 4)
    assert engine.fingerprint == before


@pytest.fixture(scope="module")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untaught")
    tokenizer = small_tokenizer(["a b c"], chat=False)
    small_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pickled(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def foreign(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('code of the folder was run')")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (pickled, "pickle files"),
        (lambda folder: sharded(folder, "model-1.safetensors"), "model-1.safetensors is missing"),
        (lambda folder: sharded(folder, "../model.safetensors"), "no safetensors file beside it"),
        (lambda folder: sharded(folder, "model.bin"), "no safetensors file beside it"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer in this folder"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (
            lambda folder: (folder / "generation_config.json").write_text("[]"),
            "generation_config.json: cannot",
        ),
        (foreign, "contains custom code"),
    ],
)
def test_a_folder_that_cannot_be_served_safely_is_refused(
    untaught: Path, tmp_path: Path, spoil: object, words: str
) -> None:
    from engine.serving.text_engine import TextEngine

    copy = shutil.copytree(untaught, tmp_path / "copy")
    assert callable(spoil)
    spoil(copy)
    with pytest.raises(CheckpointError, match=words) as told:
        TextEngine(copy)
    assert "\n" not in str(told.value)
