"""`hermes questions`: TIFA-style questions for a data set, its own or a language model's, as one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curate.questions.cache import TextCache
    from curate.questions.generate import Maker, QuestionReport, WritingSettings
    from engine.records import Item
    from engine.serving.text_engine import TextEngine


class StyleName(StrEnum):
    """For which kind of model the prompt is."""

    instruct = "instruct"
    tifa = "tifa"


def make_questions(
    to: Annotated[Path, typer.Option("--to", help="TIFA file to write.")],
    data: Annotated[str, typer.Option("--data", help="`shapes`, or a folder with items.jsonl.")] = "shapes",
    question_model: Annotated[
        Path | None, typer.Option("--question-model", help="Folder of a language model that writes them.")
    ] = None,
    reader_model: Annotated[
        Path | None,
        typer.Option("--reader-model", help="Folder of one that checks them; without, the question model."),
    ] = None,
    style: Annotated[
        StyleName, typer.Option("--style", help="tifa is for TIFA's released generator alone.")
    ] = StyleName.instruct,
    combine: Annotated[
        bool, typer.Option("--combine", help="The data set's own questions too, before the model's.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Number of items; without, all of a folder.")
    ] = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Captions in flight.")] = 32,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest text about one caption.")
    ] = 768,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the items of `shapes`, and of sampling.")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or auto.")] = "auto",
    kv_cache_gib: Annotated[
        float, typer.Option("--kv-cache-gib", help="Memory for keys and values of a model.")
    ] = 1.0,
) -> None:
    """Write and check the questions that curation asks; `hermes curate --questions` takes the file."""
    from curate.config import CurateConfig
    from curate.questions.cache import TextCache
    from curate.questions.generate import Maker, WritingSettings
    from engine.errors import ConfigError
    from hermes_cli.settings import RunSettings
    from hermes_cli.stages.curate import training_source
    from hermes_cli.view import say

    if combine and question_model is None:
        raise ConfigError("--combine: there is nothing to combine with; name a --question-model")
    if to.is_dir():
        raise ConfigError(f"--to {to}: is a folder; name a file")
    writing = WritingSettings(
        style=style.value, batch=batch, max_tokens=max_tokens, temperature=temperature, seed=seed
    )
    items = training_source(RunSettings(data=data, seed=seed, curate=CurateConfig(limit=limit))).items()

    def open_model(folder: Path) -> TextEngine:
        from engine.serving.text_engine import TextEngine

        say(f"opening {folder}")
        return TextEngine(folder, dtype=dtype, max_sequences=batch, kv_cache_gib=kv_cache_gib)

    if question_model is None and reader_model is None:
        report = _collect(items, Maker(writing), to)
    else:
        with closing(TextCache(to.with_name(to.name + ".cache.jsonl"))) as cache:
            report = _ask(items, writing, to, cache, combine, question_model, reader_model, open_model)
    _show(report, to)


def _ask(
    items: Sequence[Item],
    writing: WritingSettings,
    to: Path,
    cache: TextCache,
    combine: bool,
    question_model: Path | None,
    reader_model: Path | None,
    open_model: Callable[[Path], TextEngine],
) -> QuestionReport:
    """Has the models write and read, one after the other where they are two: one is in memory at a time."""
    from curate.questions.cache import Remembering
    from curate.questions.generate import Maker, ask_all
    from hermes_cli.view import progress_bar

    author = None
    own = combine or question_model is None
    if question_model is not None:
        with open_model(question_model) as model:
            author = Remembering(model, cache)
            with progress_bar("write questions", len(items)) as advance:
                ask_all(items, author, writing, advance)
            if reader_model in (None, question_model):
                return _collect(items, Maker(writing, author, Remembering(model, cache), own), to)
    assert reader_model is not None
    with open_model(reader_model) as model:
        return _collect(items, Maker(writing, author, Remembering(model, cache), own), to)


def _collect(items: Sequence[Item], maker: Maker, to: Path) -> QuestionReport:
    """Writes the file, item by item."""
    from curate.questions.tifa import from_item, write_tifa
    from hermes_cli.view import progress_bar

    with progress_bar("check questions", len(items)) as advance:
        write_tifa(
            to,
            (row for item, kept in maker.questions(items, advance) for row in from_item(item, kept)),
        )
    return maker.report


def _show(report: QuestionReport, to: Path) -> None:
    from hermes_cli.view import say

    if report.asked or report.cached:
        say(f"{report.asked} captions asked about, {report.cached} found in the cache")
    if report.read or report.read_cached:
        say(f"{report.read} questions read, {report.read_cached} found in the cache")
    for reason, count in report.rejected.items():
        say(f"  {count} rejected: {reason}")
    say(f"{to}: {report.kept} questions about {report.items - report.without} of {report.items} items")
