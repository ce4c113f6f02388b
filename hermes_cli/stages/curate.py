"""The curation stage of a run: opens who samples where something is missing, and shows what came of it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from curate.store.files import QUARANTINE, SUMMARY
from engine.errors import DataError, StaleError
from engine.files.atomic import write_file
from engine.machine.probe import gpu_count
from hermes_cli.run.event_log import logged
from hermes_cli.run.folder import RunFolder
from hermes_cli.settings import RunSettings
from hermes_cli.stages.evaluate import image_size, model_passes, open_engine, serving_of, start_engine
from hermes_cli.view import counted, say

if TYPE_CHECKING:
    from curate.config import CurateConfig
    from curate.questions.lookup import Lookup
    from curate.scoring.scorers import Scorers
    from curate.sources import Source
    from curate.store.origin import Origin
    from curate.store.summary import CurateSummary
    from curate.workers.pool import Pool, Sampler
    from engine.records import Candidates, Preference
    from engine.serving.engine import Engine

SHEET = "sheet.png"
SHEET_ITEMS = 64
"""Items from whose beginning the sheet and the saved images are taken."""

OpenEngine = Callable[[], "AbstractContextManager[Engine]"]


def training_source(settings: RunSettings, number: int = 1) -> Source:
    """The items that a round's curation works on; errors of theirs and their scorers' come before an engine
    starts."""
    from curate.questions.lookup import questions_from
    from curate.scoring.scorers import require_scorers
    from curate.sources import load_source
    from curate.sources.loading import has_questions

    config = settings.curate
    require_scorers(config)
    lookup = questions_from(Path(config.questions)) if config.questions else None
    source = load_source(
        settings.data,
        "train",
        config.limit,
        settings.seed,
        image_size(settings.model),
        select=config.select,
        part=number - 1 if config.fresh_prompts else 0,
        has_questions=lookup.covers if lookup else has_questions,
        images=settings.images,
    )
    return _with_file_questions(source, config, lookup) if lookup else source


def _with_file_questions(source: Source, config: CurateConfig, lookup: Lookup) -> Source:
    """The source with the questions of the settings' file.

    Raises:
        DataError: the file has no question about any item.
    """
    from curate.questions.lookup import with_questions

    counts = source.counts
    if not counts.with_questions:
        raise DataError(
            f"{config.questions}: no question about any of the {counts.items} items of {source.name};"
            " ids or captions must be the same (`hermes questions` writes a file for a data set)"
        )
    say(f"{config.questions}: questions for {counts.with_questions} of {counts.items} items")
    for reason, count in lookup.rejected.items():
        say(f"  {count} not asked: {reason}")
    if lookup.bad:
        say(f"  {len(lookup.bad)} rows cannot be read, the first: {lookup.bad[0]}")
    replace = partial(with_questions, lookup=lookup, combine=config.combine_questions)
    return msgspec.structs.replace(source, replace_questions=replace)


def curate_round(
    folder: RunFolder,
    settings: RunSettings,
    number: int,
    source: Source,
    engine: OpenEngine | None = None,
    retry_failed: bool = False,
    fresh: bool = False,
) -> CurateSummary:
    """Samples, scores and pairs one round; draws the candidate sheet.

    `engine` opens the engine that samples, by default one of its own; nothing is opened where nothing is
    missing. `fresh` removes what an earlier curation of this round left. The settings are kept once all
    checks have passed.
    """
    from curate.pipeline import curate
    from curate.scoring.scorers import open_scorers
    from curate.store.origin import require_same_scorers
    from curate.store.previous_pairs import PairHistory
    from curate.store.shards import locked
    from engine.samplers.text_limits import prompt_cutter

    scorers = open_scorers(settings.curate)
    require_same_scorers((folder.curation(one) for one in range(1, number)), scorers)
    target, checkpoint = folder.curation(number), folder.checkpoint(number - 1)
    if fresh:
        _begin_anew(folder, number)
    with locked(target) if target.exists() else nullcontext():
        # Here, so that the log of a curation at work hears nothing of what is refused.
        origin = require_same_curation(folder, settings, number, source, scorers, retry_failed)
    if not target.exists():
        source.require_image()
    folder.keep(settings)
    history = PairHistory(folder.pairs(one) for one in range(1, number))
    opened = engine or partial(open_engine, settings, checkpoint)
    pool = partial(_open_pool, folder, settings, number, source, scorers, opened)
    shown: list[tuple[Candidates, Preference]] = []

    def keep(item: Candidates, preference: Preference) -> None:
        if len(shown) < SHEET_ITEMS:
            shown.append((item, preference))

    if not settings.model and source.name != "shapes":
        say("note: the embedded model knows coloured shapes alone; --model names one that suits your data")
    total, label = source.counts.rows, f"curate round {number}"
    with logged(folder.events, number, "curate", total=total, label=label) as stage:
        stage.weights = origin.model
        stage.advance(0, model_passes)
        summary = curate(
            pool,
            source,
            settings.curate,
            target,
            origin,
            history,
            stage.advance,
            retry_failed,
            keep,
            prompt_cutter(checkpoint),
        )
        _draw(settings, target, shown, f"round {number}: {settings.curate.n} candidates")
    _show(summary, target)
    return summary


def require_same_curation(
    folder: RunFolder,
    settings: RunSettings,
    number: int,
    source: Source,
    scorers: Scorers,
    retry_failed: bool = False,
) -> Origin:
    """The origin of a round's curation, which must be that of what its folder holds.

    Raises:
        StaleError: it is another, or pairs that are trained on would change; names what differs.
    """
    from curate.config import pairing
    from curate.store.origin import origin_of, require_same_origin
    from curate.store.summary import read_summary
    from engine.checkpoints.weights import fingerprint

    target, config = folder.curation(number), settings.curate
    model = fingerprint(folder.checkpoint(number - 1))
    serving = serving_of(settings.engine)
    origin = origin_of(source, config, scorers, number, settings.seed, model=model, **serving)
    require_same_origin(target, origin)
    if not folder.training_begun(number) or not (target / SUMMARY).is_file():
        return origin
    made = read_summary(target / SUMMARY)
    now = pairing(config)
    moved = [f"{name} {was!r} -> {now[name]!r}" for name, was in made.pairing.items() if was != now[name]]
    if (rows := source.counts.rows) != made.items + made.bad:
        moved.append(f"{made.items + made.bad} -> {rows} items")
    moved += ["--retry-failed"] if retry_failed and made.bad else []
    if moved:
        raise StaleError(
            f"{target}: its pairs have been trained on, and would be others ({', '.join(moved)}); use "
            "another --run, or `hermes curate --fresh` for this round"
        )
    return origin


@contextmanager
def _open_pool(
    folder: RunFolder,
    settings: RunSettings,
    number: int,
    source: Source,
    scorers: Scorers,
    engine: OpenEngine,
) -> Iterator[Pool]:
    """Who samples: this process, or Ray actors, each with an engine that lives as long as it."""
    from curate.workers.pool import LocalPool

    if settings.curate.workers == "ray":
        from curate.workers.ray_pool import RayPool

        workers, _ = settings.curate.ray.sized(gpu_count())
        say(f"starting {workers} workers on Ray")
        with closing(RayPool(partial(_sampler, folder, settings, number), settings.curate.ray)) as pool:
            yield pool
        return
    with engine() as model:
        yield LocalPool(_sampler(folder, settings, number, source, scorers, model))


def _sampler(
    folder: RunFolder,
    settings: RunSettings,
    number: int,
    source: Source | None = None,
    scorers: Scorers | None = None,
    engine: Engine | None = None,
) -> Sampler:
    """Samples a round's items; an actor opens source, scorers and engine for itself."""
    from curate.sampling import CandidateSampler
    from curate.scoring.scorers import open_scorers

    source = source or training_source(settings, number)
    engine = engine or start_engine(settings.engine, folder.checkpoint(number - 1))
    scorers, features = scorers or open_scorers(settings.curate), folder.features(number)
    return CandidateSampler(engine, scorers, source, settings.curate, number, settings.seed, features)


def _begin_anew(folder: RunFolder, number: int) -> None:
    """Removes a round's curation; where more was made from it, that and the curation are set aside."""
    from curate.store.shards import locked

    target = folder.curation(number)
    with locked(target) if target.exists() else nullcontext():
        others = [path for path in folder.round(number).glob("*") if path != target]
        if others or max(folder.begun()) > number:
            for line in folder.set_aside(number):
                say(line)
            return
        if not target.exists():
            return
        gone = target.with_name(target.name + ".removed")
        shutil.rmtree(gone, ignore_errors=True)
        target.rename(gone)
    shutil.rmtree(gone)


def _draw(
    settings: RunSettings, target: Path, shown: Sequence[tuple[Candidates, Preference]], title: str
) -> None:
    """The sheet of the first items, and their images as files."""
    from curate.sheet import draw_sheet, save_images
    from engine.devices import compute_device
    from engine.files.layout import resolve_model
    from engine.tokenizers.codec import Pixels

    records, preferences = [item for item, _ in shown], [preference for _, preference in shown]
    decode = Pixels(resolve_model(settings.model) / "image_tokenizer", compute_device()).images
    save_images(records, preferences, decode, target / "images")
    stream = io.BytesIO()
    draw_sheet(records, preferences, decode, title).save(stream, "PNG")
    # Last and whole: where it stands, the images do too.
    write_file(target / SHEET, stream.getvalue())


def _show(summary: CurateSummary, target: Path) -> None:
    from curate.pairs import NO_QUESTIONS
    from curate.store.throughput import rates

    judge = "accuracy by the judge" if summary.judge else "self-VQA"
    means = {"similarity": summary.mean_similarity, judge: summary.mean_self_vqa}
    said = ", ".join(f"mean {name} {mean:.3f}" for name, mean in means.items() if mean is not None)
    say(
        f"{counted(summary.items, 'item')}: {counted(summary.caption_pairs, 'caption pair')},"
        f" {counted(summary.image_pairs, 'image pair')} ({summary.image_ties} of equal scores); {said}"
    )
    speed = summary.throughput
    if speed is not None and speed.work.seconds:
        say(
            f"  {rates(speed.work)}; {speed.engine_share:.0%} of the time in the engine,"
            f" {speed.forward_share:.0%} in forward passes"
        )
    for side, reasons in (("captions", summary.no_caption_pair), ("images", summary.no_image_pair)):
        for reason, count in sorted(reasons.items()):
            way = "; `hermes questions` writes some" if reason == NO_QUESTIONS else ""
            say(f"  no pair of {side} for {counted(count, 'item')}: {reason}{way}")
    for reason, count in summary.questions_left_out.items():
        say(f"  {counted(count, 'question')} left out: {reason}")
    if cut := summary.cut_captions:
        say(f"  {counted(cut, 'caption')} cut at curate.caption.max_tokens; training adds no end to them")
    if cut := summary.cut_prompts:
        say(f"  {counted(cut, 'caption')} of which image generation reads the beginning alone")
    if summary.bad:
        first = summary.quarantined[0]
        bad = f"{counted(summary.bad, 'row')} quarantined in {target / QUARANTINE}"
        say(f"  {bad}; {first.where}: {first.reason}")
    say(f"candidate sheet: {target / SHEET}")
