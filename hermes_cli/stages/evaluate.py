"""The stages of a run as functions: each reads files, works, and leaves files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from engine.errors import StaleError
from engine.files.atomic import write_file
from engine.files.layout import CLIP_FOLDER, resolve_model
from engine.files.seals import seal
from hermes_cli.run.event_log import Event, log_event, logged
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import EngineSettings, RunSettings
from hermes_cli.view import encode_pretty, round_name, say

if TYPE_CHECKING:
    from curate.evaluation.config import EvalConfig
    from curate.evaluation.records import EvalOrigin, GapReport
    from curate.sources import Source
    from engine.machine.plan import Plan
    from engine.records import Item
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


def model_passes() -> str:
    """How often this process has run the served model, which moves where nothing else does for minutes."""
    from engine.metering.stopwatch import FORWARD

    return f"{FORWARD.passes:,} passes" if FORWARD.passes else ""


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
    """The items that the gap is measured on, with their own questions, else those of the settings' file; its
    errors come before an engine is started, and a word where the gap stays unknown."""
    from curate.questions.lookup import questions_from, with_questions
    from curate.sources import load_source

    config, file = settings.eval, settings.curate.questions
    lookup = questions_from(Path(file)) if file else None

    def asked(item: Item) -> Item:
        return item if item.questions or not lookup else with_questions(item, lookup, combine=False)

    source = load_source(
        settings.data,
        config.split,
        config.limit,
        config.seed,
        image_size(settings.model),
        images=settings.images,
        has_questions=lambda item: bool(asked(item).questions),
    )
    if why := unknown_gap(source):
        say(why)
    return msgspec.structs.replace(source, replace_questions=asked)


def unknown_gap(source: Source) -> str:
    """Why the gap cannot be measured on a source; empty where it can."""
    if source.counts.with_questions:
        return ""
    return (
        f"the gap is unknown: no held-out item of {source.name} has a question; "
        "write some with `hermes questions`, and give the file with --questions"
    )


def bring_evaluation(
    folder: RunFolder,
    settings: RunSettings,
    number: int,
    source: Source,
    origin: EvalOrigin,
    serving: Callable[[int], Engine],
) -> None:
    """Measures a round on the engine that `serving` gives, where that is not done; logs once why it cannot
    be."""
    if why := unknown_gap(source):
        if folder.unknown_gap(number) != why:
            log_event(folder.events, Event(number, "eval", "skipped", reason=why))
    elif not evaluated(folder, settings.eval, number, origin):
        evaluate_round(serving(number), folder, settings, number, source, origin)


def serving_of(settings: EngineSettings) -> dict[str, Any]:
    """What of the engine, beside its weights, decides what it samples; by the names that origins have."""
    from engine.devices import compute_device
    from engine.machine.precision import serving_dtype
    from engine.samplers.setting import sampler_for

    device = compute_device()
    return {
        "precision": serving_dtype(settings.dtype),
        "sampler": sampler_for(settings.sampler, device),
        "device": device.type,
        "deterministic": settings.deterministic or device.type == "cpu",
    }


def eval_origin(folder: RunFolder, settings: RunSettings, source: Source) -> EvalOrigin:
    """What the run's rounds are measured on and by.

    Raises:
        StaleError: the run has another base model, or was measured on another data set.
    """
    from curate.evaluation.records import EvalOrigin, readable_gap
    from curate.questions.lookup import questions_digest
    from curate.scoring.similarity import matcher_name, stored_name
    from curate.store.origin import read_origin

    config = settings.curate
    origin = EvalOrigin(
        data=source.name,
        annotations=source.digest,
        # The data set's own are in its annotations; the embedded world has some about every item.
        questions="" if source.oracle else questions_digest(config.questions, combine=False),
        matcher=stored_name(matcher_name(config.similarity)),
        **serving_of(settings.engine),
    )
    _require_own_base(folder)
    found = readable_gap(folder.evaluation(0))
    known = [(one.data, one.annotations) for one in (found and found.origin,) if one]
    curated = (read_origin(folder.curation(each)) for each in folder.begun())
    for data, digest in [*known, *((one.data, one.annotations) for one in curated if one)]:
        # The same data set may have been moved; the same place may hold more than it did.
        if data != origin.data and digest != origin.annotations:
            raise StaleError(f"{folder.root}: this run is of {data}, not of {origin.data}; use another --run")
    return origin


def _require_own_base(folder: RunFolder) -> None:
    """Raises StaleError where the run was begun from another base model than its settings name."""
    from curate.evaluation.records import readable_gap
    from curate.store.origin import read_origin
    from engine.checkpoints.weights import fingerprint
    from hermes_cli.reporting.reproduce import read_basis

    ours, found = fingerprint(folder.checkpoint(0)), readable_gap(folder.evaluation(0))
    origin, basis = read_origin(folder.curation(1)), read_basis(folder.training(1) / "basis.json")
    begun = [found.fingerprint if found else "", origin.model if origin else "", basis.start if basis else ""]
    if others := [one for one in begun if one not in ("", ours)]:
        raise StaleError(
            f"{folder.root}: this run's base is {others[0]}, {folder.checkpoint(0)} holds {ours}; "
            "use another --run"
        )


def evaluate_round(
    engine: Engine, folder: RunFolder, settings: RunSettings, number: int, source: Source, origin: EvalOrigin
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
        stage.advance(0, model_passes)
        report = measure_gap(engine, similarity, source, settings.eval, stage.advance, gallery.keep)
        stage.weights = report.fingerprint
        gallery.write(folder.gallery(number), report.fingerprint, engine.decode, source)
        path = folder.evaluation(number)
        write_file(path, encode_pretty(replace(report, origin=origin)))
        seal(path.parent, [path.name])


def measured(folder: RunFolder, number: int) -> GapReport | None:
    """A round's measurement, if it can be read and is of these very weights."""
    from curate.evaluation.records import readable_gap
    from engine.checkpoints.weights import fingerprint

    found = readable_gap(folder.evaluation(number))
    same = found is not None and found.fingerprint == fingerprint(folder.checkpoint(number))
    return found if same else None


def evaluated(folder: RunFolder, config: EvalConfig, number: int, origin: EvalOrigin) -> bool:
    """Whether a round's measurement exists, is of these weights, settings and data, and kept its items."""
    found = measured(folder, number)
    return found is not None and (found.config, found.origin) == (config, origin) and bool(found.per_item)


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
