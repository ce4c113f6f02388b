"""The stages of a run as functions: each reads files, works, and leaves files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from curate.store import CANDIDATES, PAIRS, CandidateLog, read_records, write_file
from engine.checkpoints import CLIP_FOLDER, resolve_model
from engine.errors import DataError
from engine.records import Preference
from hermes_cli.report import Report, write_report
from hermes_cli.run_folder import RunFolder
from hermes_cli.settings import RunSettings
from hermes_cli.view import encode_pretty, progress_bar, say

if TYPE_CHECKING:
    from curate.config import CurateConfig
    from curate.pipeline import CurateSummary
    from curate.sources import Source
    from engine.vllm_engine import Engine


@contextmanager
def open_engine(settings: RunSettings, checkpoint: Path) -> Iterator[Engine]:
    """A running engine on a checkpoint."""
    say(f"starting the engine on {checkpoint}")
    from engine.vllm_engine import Engine

    with Engine(
        checkpoint,
        dtype=settings.engine.dtype,
        max_sequences=settings.engine.max_sequences,
        kv_cache_gib=settings.engine.kv_cache_gib,
        tensor_parallel=settings.engine.tensor_parallel,
    ) as engine:
        yield engine


@contextmanager
def timed(folder: RunFolder, number: int, stage: str, resumes: bool = True) -> Iterator[None]:
    """Stores the time inside the block, also where it is interrupted; a stage that resumes adds up."""
    start = time.monotonic()
    try:
        yield
    finally:
        folder.keep_seconds(number, stage, time.monotonic() - start, resumes)


def image_size(settings: RunSettings) -> int:
    """Pixels on a side of the images that the base model takes: its tokenizer, or its tower if larger."""
    base = resolve_model(settings.model)
    files = [base / folder / "config.json" for folder in ("image_tokenizer", CLIP_FOLDER)]
    return max(int(msgspec.json.decode(one.read_bytes())["image_size"]) for one in files if one.is_file())


def training_source(settings: RunSettings) -> Source:
    """The items that curation works on; its errors come before an engine is started."""
    from curate.sources import load_source

    source = load_source(settings.data, "train", settings.curate.limit, settings.seed, image_size(settings))
    return asking(source, settings.curate) if settings.curate.questions else source


def asking(source: Source, config: CurateConfig) -> Source:
    """The source with the questions of the settings' file.

    Raises:
        DataError: the file cannot be read, or has no question about any item.
    """
    from curate.questions.lookup import questions_from, with_questions

    lookup = questions_from(Path(config.questions))
    covered = sum(bool(lookup.of(item)) for item in source.items)
    if not covered:
        raise DataError(
            f"{config.questions}: no question about any of the {len(source.items)} items of {source.name};"
            " ids or captions must be the same (`hermes questions` writes a file for a data set)"
        )
    say(f"{config.questions}: questions for {covered} of {len(source.items)} items")
    for reason, count in lookup.rejected.items():
        say(f"  {count} not asked: {reason}")
    if lookup.bad:
        say(f"  {len(lookup.bad)} rows cannot be read, the first: {lookup.bad[0]}")
    items = tuple(with_questions(item, lookup, config.combine_questions) for item in source.items)
    return msgspec.structs.replace(source, items=items)


def held_out_source(settings: RunSettings) -> Source:
    """The items that the gap is measured on."""
    from curate.sources import load_source

    config = settings.eval
    return load_source(settings.data, config.split, config.limit, config.seed, image_size(settings))


def curate_round(
    engine: Engine, folder: RunFolder, settings: RunSettings, number: int, source: Source
) -> CurateSummary:
    """Samples, scores and pairs one round; draws the candidate sheet."""
    from curate.pipeline import curate, earlier_pairs
    from curate.sheet import draw_sheet, save_images
    from curate.similarity import load_similarity
    from curate.throughput import rates

    similarity = load_similarity(settings.curate.similarity)
    target = folder.curation(number)
    earlier = earlier_pairs(folder.pairs(one) for one in range(1, number))
    with (
        timed(folder, number, "curate"),
        progress_bar(f"curate round {number}", len(source.items)) as advance,
    ):
        summary = curate(
            engine, similarity, source, settings.curate, target, number, settings.seed, earlier, advance
        )
    wanted = {item.id for item in source.items}
    records = [one for one in CandidateLog(target / CANDIDATES).read() if one.id in wanted]
    preferences = list(read_records(target / PAIRS, Preference))
    draw_sheet(records, preferences, engine.decode, f"round {number}: {settings.curate.n} candidates").save(
        target / "sheet.png"
    )
    save_images(records, preferences, engine.decode, target / "images")
    say(
        f"{summary.items} items: {summary.caption_pairs} caption pairs, {summary.image_pairs} image pairs; "
        f"mean similarity {summary.mean_similarity:.3f}, mean self-VQA {summary.mean_self_vqa:.3f}"
    )
    if summary.throughput is not None:
        speed = summary.throughput
        say(
            f"  {rates(speed.work)}; {speed.engine_share:.0%} of the time in the engine,"
            f" {speed.forward_share:.0%} in forward passes"
        )
    for side, reasons in (("captions", summary.no_caption_pair), ("images", summary.no_image_pair)):
        for reason, count in sorted(reasons.items()):
            say(f"  no pair of {side} for {count} items: {reason}")
    if summary.quarantined:
        say(
            f"  {len(summary.quarantined)} rows quarantined, the first: {summary.quarantined[0].where}: "
            f"{summary.quarantined[0].reason}"
        )
    say(f"candidate sheet: {target / 'sheet.png'}")
    return summary


def evaluate_round(
    engine: Engine, folder: RunFolder, settings: RunSettings, number: int, source: Source
) -> None:
    """Measures the gap after a round on held-out items."""
    from benchmarks.quality.gap import measure_gap
    from curate.similarity import load_similarity

    similarity = load_similarity(settings.curate.similarity)
    label = "evaluate base" if number == 0 else f"evaluate round {number}"
    with timed(folder, number, "eval", resumes=False), progress_bar(label, len(source.items)) as advance:
        report = measure_gap(engine, similarity, source, settings.eval, advance)
    write_file(folder.evaluation(number), encode_pretty(report))


def evaluated(folder: RunFolder, settings: RunSettings, number: int) -> bool:
    """Whether a round's measurement exists and was made on these weights with these settings."""
    from benchmarks.quality.records import GapReport
    from engine.weights import fingerprint

    path = folder.evaluation(number)
    if not path.is_file():
        return False
    found = msgspec.json.decode(path.read_bytes(), type=GapReport)
    return found.config == settings.eval and found.fingerprint == fingerprint(folder.checkpoint(number))


def finish(folder: RunFolder) -> Report:
    """Writes the report and shows it."""
    from hermes_cli.view import show_gap

    report = write_report(folder)
    show_gap(report.rounds, report.judge, folder.report)
    return report
