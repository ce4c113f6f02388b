"""The stages of a run as functions: each reads files, works, and leaves files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.errors import DataError
from engine.files.atomic import write_file
from engine.files.layout import CLIP_FOLDER, resolve_model
from hermes_cli.run.event_log import logged
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import EngineSettings, RunSettings
from hermes_cli.view import encode_pretty, round_name, say

if TYPE_CHECKING:
    from curate.evaluation.config import EvalConfig
    from curate.evaluation.records import GapReport
    from curate.sources import Source
    from engine.machine.plan import Plan
    from engine.serving.engine import Engine
    from hermes_cli.reporting.records import RunReport


def start_engine(settings: EngineSettings, checkpoint: Path, plan: Plan | None = None) -> Engine:
    """A running engine on a checkpoint, as planned, which whoever starts it has to close."""
    from engine.serving.engine import Engine
    from hermes_cli.stages.processes import cache_gib

    return Engine(
        checkpoint,
        dtype=settings.dtype,
        max_sequences=settings.max_sequences,
        kv_cache_gib=cache_gib(settings, plan),
        tensor_parallel=settings.tensor_parallel,
        sampler=settings.sampler,
        deterministic=settings.deterministic,
    )


@contextmanager
def open_engine(settings: RunSettings, checkpoint: Path, plan: Plan | None = None) -> Iterator[Engine]:
    """A running engine on a checkpoint, closed at the end; planned here, and said, where nobody has yet.

    Raises:
        ConfigError: there is too little memory for it.
    """
    from hermes_cli.stages.processes import plan_processes, use_threads

    say(f"starting the engine on {checkpoint}")
    plan = plan or plan_processes(settings, checkpoint, samples=True)
    use_threads(plan)
    with start_engine(settings.engine, checkpoint, plan) as engine:
        yield engine


def image_size(model: str) -> int:
    """Pixels on a side of the images that the base model takes: its tokenizer, or its tower if larger."""
    base = resolve_model(model)
    files = [base / folder / "config.json" for folder in ("image_tokenizer", CLIP_FOLDER)]
    return max(int(msgspec.json.decode(one.read_bytes())["image_size"]) for one in files if one.is_file())


def held_out_source(settings: RunSettings) -> Source:
    """The items that the gap is measured on; its errors come before an engine is started.

    Raises:
        DataError: no item has a question.
    """
    from curate.sources import load_source

    config = settings.eval
    size = image_size(settings.model)
    source = load_source(settings.data, config.split, config.limit, config.seed, size, images=settings.images)
    if not source.counts.with_questions:
        raise DataError(
            f"{source.name}: no held-out item has a question that can be scored, so there is no gap "
            "to measure; `hermes curate` and `hermes train` work on captions alone"
        )
    return source


def evaluate_round(
    engine: Engine, folder: RunFolder, settings: RunSettings, number: int, source: Source
) -> None:
    """Measures the gap after a round on held-out items, and keeps the pictures of the first few."""
    from curate.evaluation.gap import measure_gap
    from curate.scoring.similarity import load_similarity, matcher_name
    from hermes_cli.reporting.gallery import GalleryKeeper

    similarity = load_similarity(matcher_name(settings.curate.similarity))
    items = source.items()
    gallery = GalleryKeeper(items)
    label = f"evaluate {round_name(number)}"
    with logged(folder.events, number, "eval", False, len(items), label) as stage:
        report = measure_gap(engine, similarity, source, settings.eval, stage.advance, gallery.keep)
        stage.weights = report.fingerprint
        gallery.write(folder.gallery(number), report.fingerprint, engine.decode, source)
        write_file(folder.evaluation(number), encode_pretty(report))


def measured(folder: RunFolder, number: int) -> GapReport | None:
    """A round's measurement, if it can be read and is of these very weights."""
    from curate.evaluation.records import readable_gap
    from engine.checkpoints.weights import fingerprint

    found = readable_gap(folder.evaluation(number))
    same = found is not None and found.fingerprint == fingerprint(folder.checkpoint(number))
    return found if same else None


def evaluated(folder: RunFolder, config: EvalConfig, number: int) -> bool:
    """Whether a round's measurement exists, is of these weights and settings, and kept its items."""
    found = measured(folder, number)
    return found is not None and found.config == config and bool(found.per_item)


def finish(folder: RunFolder, page: Path | None = None) -> RunReport:
    """Writes the report as JSON and as a page, and shows it."""
    from hermes_cli.reporting.build import write_report
    from hermes_cli.reporting.page import write_page
    from hermes_cli.reporting.terminal import report_view
    from hermes_cli.view import console

    report = write_report(folder)
    page = page or folder.page
    write_page(folder, report, page)
    console.print(report_view(report, (folder.report, page)))
    return report
