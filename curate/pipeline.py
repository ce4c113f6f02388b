"""Curation of one round: sample and score what is missing, store it, then pair.

Memory holds one block of rows and those that are quarantined, whatever the size of the data set.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from curate.config import CurateConfig, pairing
from curate.pairs import choose_caption_pair, choose_image_pair, choose_pairs
from curate.resume import MissingRows, Progress
from curate.rules import rules_of
from curate.sources import Source
from curate.store.files import ORIGIN, PAIRS, QUARANTINE, SUMMARY, write_records
from curate.store.origin import Origin, claim
from curate.store.outcomes import QuarantinedRow
from curate.store.previous_pairs import PairHistory, PreviousPairs
from curate.store.shards import ShardStore
from curate.store.summary import Counting, CurateSummary
from curate.store.throughput import Throughput, rates, throughput
from curate.workers.pool import Pool
from engine.errors import UNREADABLE, DataError
from engine.files.atomic import write_file
from engine.files.seals import damage, seal
from engine.records import Candidates, Preference, Provenance

OpenPool = Callable[[], AbstractContextManager[Pool]]
"""Opens who samples; called only where rows are missing."""


def curate(
    open_pool: OpenPool,
    source: Source,
    config: CurateConfig,
    folder: Path,
    origin: Origin,
    history: PairHistory,
    progress: Progress,
    retry_failed: bool = False,
    on_pair: Callable[[Candidates, Preference], None] | None = None,
    cuts_prompt: Callable[[str], bool] = lambda caption: False,
) -> CurateSummary:
    """Curates every row of a source into `folder`; one that holds part of the same curation is completed.

    Rows that cannot be used, images that cannot be read and items that do not fit the model are quarantined.
    With `retry_failed`, those quarantined before are tried again. `on_pair` is shown every item with what
    became of it, in order. `cuts_prompt` tells of a caption whether image generation reads all of it.

    Raises:
        BusyError: another process is curating into the folder.
        DataError: more rows are bad than `config.max_bad` allows, or all are; or the disk is full.
        StaleError: the folder holds a curation by other weights, data, seed or settings.
    """
    with ShardStore(folder) as store:
        claim(folder, origin)
        if retry_failed:
            store.forget_bad()
        work = MissingRows(store, source, config, progress)
        speed = _sample(open_pool, work)
        counting = Counting()
        paired = _paired(store, work.rows, config, origin, history, counting, on_pair, cuts_prompt)
        first = next(paired, None)
        if first is None:
            write_records(folder / QUARANTINE, counting.quarantined)
            raise DataError(_all_bad(folder, counting.quarantined))
        write_records(folder / PAIRS, itertools.chain([first], paired))
        write_records(folder / QUARANTINE, counting.quarantined)
        summary = msgspec.structs.replace(
            counting.summary(),
            judge=origin.judge,
            pairing=pairing(config),
            sampler=origin.sampler,
            precision=origin.precision,
            device=origin.device,
            questions_left_out=dict(work.questions_left_out.most_common()),
            throughput=speed or _earlier_speed(folder / SUMMARY),
        )
        write_file(folder / SUMMARY, msgspec.json.format(msgspec.json.encode(summary)))
        seal(folder, (ORIGIN, PAIRS, QUARANTINE, SUMMARY))
    return summary


def _all_bad(folder: Path, rows: Sequence[QuarantinedRow]) -> str:
    """One line for a curation of which nothing is left."""
    said = f"; the first: {rows[0].where}: {rows[0].reason}" if rows else ""
    return (
        f"no row can be used, all {len(rows)} are in {folder / QUARANTINE}{said}; "
        "mend the data, or name where its images lie with --images; the same command with --retry-failed "
        "tries them again"
    )


def _sample(open_pool: OpenPool, work: MissingRows) -> Throughput | None:
    """Samples all that is missing; None where nothing is."""
    chunks = work.chunks()
    first = next(chunks, None)
    if first is None:
        return None
    with open_pool() as pool:
        before, begun, items = pool.work, time.perf_counter(), 0
        for outcomes in pool.run(itertools.chain([first], chunks)):
            work.take(outcomes, rates(pool.work.since(before)))
            items += len(outcomes)
        return throughput(pool.work.since(before), time.perf_counter() - begun, items, pool.engines)


def _paired(
    store: ShardStore,
    rows: int,
    config: CurateConfig,
    origin: Origin,
    history: PairHistory,
    counting: Counting,
    on_pair: Callable[[Candidates, Preference], None] | None,
    cuts_prompt: Callable[[str], bool],
) -> Iterator[Preference]:
    """The preference of every item, in order; `counting` hears of all that is stored of the first rows."""
    for outcome in store.outcomes():
        if outcome.number >= rows:
            return
        if isinstance(outcome, QuarantinedRow):
            counting.quarantined.append(outcome)
            continue
        item = outcome.item
        preference = pair_item(item, history.of(item.id), config, origin)
        asked = [one.score for one in item.images if one.answers]
        counting.add(preference, [one.score for one in item.captions], asked)
        counting.cut_captions += sum(not one.ended for one in item.captions)
        counting.cut_prompts += cuts_prompt(item.caption)
        if on_pair is not None:
            on_pair(item, preference)
        yield preference


def pair_item(
    candidates: Candidates, previous: PreviousPairs, config: CurateConfig, origin: Origin
) -> Preference:
    """The item's preference under the rules that the settings name, and where it comes from."""
    rules = rules_of(config)
    (captions, caption_reason), (images, image_reason) = choose_pairs(
        choose_caption_pair(candidates.captions, origin.round, previous.captions, rules),
        choose_image_pair(candidates.images, origin.round, previous.images, rules),
        rules,
    )
    return Preference(
        id=candidates.id,
        caption=candidates.caption,
        image_codes=candidates.image_codes,
        image_features=candidates.image_features,
        captions=captions,
        images=images,
        caption_reason=caption_reason,
        image_reason=image_reason,
        provenance=Provenance(
            model=origin.model,
            precision=origin.precision,
            origin=origin.digest(),
            seed=origin.seed,
            questions=candidates.questions,
            caption_scores=tuple(one.score for one in candidates.captions),
            caption_seeds=tuple(one.seed for one in candidates.captions),
            image_scores=tuple(one.score for one in candidates.images),
            image_likelihoods=tuple(one.likelihood for one in candidates.images),
            image_seeds=tuple(one.seed for one in candidates.images),
            image_answers=tuple(one.answers for one in candidates.images),
        ),
    )


def _earlier_speed(path: Path) -> Throughput | None:
    """What an earlier command said of its speed; nothing was sampled since."""
    if not path.is_file() or damage(path.parent, path.name):
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=CurateSummary).throughput
    except UNREADABLE:
        return None
