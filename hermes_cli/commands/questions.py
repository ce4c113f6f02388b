"""`hermes questions`: TIFA-style questions for a data set, its own or a language model's, as one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hermes_cli.options import DATA_SETS, Set

if TYPE_CHECKING:
    from curate.questions.generate import QuestionMaker, QuestionModels
    from curate.sources import Source
    from engine.records import Item


class StyleName(StrEnum):
    """For which kind of model the prompt is."""

    instruct = "instruct"
    tifa = "tifa"


def make_questions(
    to: Annotated[Path, typer.Option("--to", help="TIFA file to write.")],
    data: Annotated[str, typer.Option("--data", help=DATA_SETS)] = "shapes",
    images: Annotated[str, typer.Option("--images", help="Folder that image names start from.")] = "",
    url: Annotated[
        str | None,
        typer.Option("--url", help="OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1."),
    ] = None,
    question_model: Annotated[
        str | None, typer.Option("--question-model", help="Name of the model there that writes them.")
    ] = None,
    reader_model: Annotated[
        str | None,
        typer.Option("--reader-model", help="Name of one that checks them; without, the question model."),
    ] = None,
    assignments: Set = None,
    style: Annotated[
        StyleName, typer.Option("--style", help="tifa is for TIFA's released generator alone.")
    ] = StyleName.instruct,
    combine: Annotated[
        bool, typer.Option("--combine", help="The data set's own questions too, before the model's.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Number of items; without, all of a data set.")
    ] = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Captions between two writes to disk.")] = 32,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest text about one caption.")
    ] = 768,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the items of `shapes`, and of sampling.")] = 0,
) -> None:
    """Write and check questions about all items; curate, run and eval take the file as --questions.

    --set writer.timeout=120 sets a field of the question model's endpoint, --set reader.url=... one of the
    reader's, which has the others from it: url, model, api_key_env, timeout, retries, concurrency.
    """
    from curate.questions.cache import CachedTextModel, TextCache
    from curate.questions.generate import QuestionMaker, WritingSettings
    from curate.scoring.endpoint import Endpoint
    from curate.sources import load_source
    from curate.sources.embedded import SHAPES
    from engine.errors import ConfigError
    from hermes_cli.stages.evaluate import image_size

    models = _models(url, question_model, reader_model, assignments or [])
    if combine and not models.writer.url:
        raise ConfigError(
            "--combine: there is nothing to combine with; name a --question-model and its --url"
        )
    if to.is_dir():
        raise ConfigError(f"--to {to}: is a folder; name a file")
    writing = WritingSettings(
        style=style.value, batch=batch, max_tokens=max_tokens, temperature=temperature, seed=seed
    )
    # Curation asks about the items of one split, the evaluation about those of the other.
    split = "train" if data == SHAPES else ""
    items = _items(load_source(data, split, limit, seed, image_size(""), images=images))
    if not models.reader.url:
        _collect(items, QuestionMaker(writing), to)
        return
    with closing(TextCache(to.with_name(to.name + ".cache.sqlite"))) as cache:
        author = CachedTextModel(Endpoint(models.writer), cache) if models.writer.url else None
        own = combine or author is None
        _collect(
            items, QuestionMaker(writing, author, CachedTextModel(Endpoint(models.reader), cache), own), to
        )


def _models(
    url: str | None, question_model: str | None, reader_model: str | None, assignments: Sequence[str]
) -> QuestionModels:
    """Who writes and who reads.

    Raises:
        ConfigError: a setting is unknown or out of range, or a model is named without its endpoint.
    """
    import msgspec

    from curate.questions.generate import QuestionModels
    from engine.errors import ConfigError
    from hermes_cli.settings import merge, parse_assignment

    named = {"url": url, "model": question_model}
    tree: dict[str, Any] = {
        "writer": {name: value for name, value in named.items() if value is not None},
        "reader": {} if reader_model is None else {"model": reader_model},
    }
    for assignment in assignments:
        tree = merge(tree, parse_assignment(assignment))
    try:
        parts = msgspec.convert(tree, dict[str, dict[str, Any]])
        writer = parts["writer"]
        parts["reader"] = merge(writer, parts["reader"])
        if "model" not in writer and "model" in parts["reader"]:
            parts["writer"] = {}
        models = msgspec.convert(parts, QuestionModels)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--set: {error}") from error
    for one in (models.writer, models.reader):
        if one.model and not one.url:
            raise ConfigError(f"the model {one.model}: name the endpoint that serves it with --url")
    return models


def _items(source: Source) -> list[Item]:
    """The items of a source; says which rows and questions it cannot use."""
    from hermes_cli.view import counted, say

    rows = list(source.rows())
    if bad := [row for row in rows if row.item is None]:
        say(f"{counted(len(bad), 'row')} quarantined, the first: {bad[0].where}: {bad[0].reason}")
    # Behind a colon stands what concerns one question.
    left_out = Counter(reason.partition(":")[0] for row in rows for reason in row.dropped)
    for reason, count in left_out.items():
        say(f"{counted(count, 'question')} left out: {reason}")
    return [row.item for row in rows if row.item is not None]


def _collect(items: Sequence[Item], maker: QuestionMaker, to: Path) -> None:
    """Writes the file, item by item, and says what became of the questions.

    Raises:
        DataError: there is no question to write.
    """
    from curate.questions.tifa import from_item, write_tifa
    from engine.errors import DataError
    from hermes_cli.view import counted, progress_bar, say

    with progress_bar("questions", len(items)) as advance:
        rows = (row for item, kept in maker.questions(items, advance) for row in from_item(item, kept))
        first = next(rows, None)
        if first is not None:
            write_tifa(to, chain([first], rows))
    report = maker.report
    if report.asked or report.cached:
        say(f"{report.asked} captions asked about, {report.cached} found in the cache")
    if report.read or report.read_cached:
        say(f"{report.read} questions read, {report.read_cached} found in the cache")
    for reason, count in report.rejected.items():
        say(f"  {count} rejected: {reason}")
    if first is None:
        raise DataError(
            f"{to}: not written, as no question about any of {len(items)} items can be asked; data without "
            "questions of its own needs a --question-model and its --url"
        )
    asked = report.items - report.without
    say(f"{to}: {counted(report.kept, 'question')} about {asked} of {counted(report.items, 'item')}")
