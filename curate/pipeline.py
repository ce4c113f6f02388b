"""Curation of one round: sample, score, store; then pair. Resumable, one chunk of items at a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from curate.config import CurateConfig, caption_plan
from curate.pairs import choose_caption_pair, choose_image_pair
from curate.protocol import UnifiedModel
from curate.questions.lookup import asked_digest
from curate.self_vqa import accuracy, compared, matched
from curate.similarity import Similarity, caption_scores
from curate.sources import Quarantined, Source
from curate.store import (
    CANDIDATES,
    ORIGIN,
    PAIRS,
    SUMMARY,
    CandidateLog,
    read_records,
    write_file,
    write_records,
)
from curate.throughput import Throughput, rates, throughput
from engine.errors import StaleError
from engine.feature_files import FEATURES, save_features
from engine.records import (
    Candidates,
    CaptionCandidate,
    CaptionPair,
    ImageCandidate,
    ImagePair,
    Item,
    Preference,
    Record,
)


class Origin(Record):
    """What decides every sample of a curation; a folder with another origin is refused."""

    model: str
    """Fingerprint of the weights that sampled."""
    precision: str
    data: str
    round: int
    seed: int
    n: int
    captions: object
    """How each caption candidate is sampled."""
    paint: object
    answer: object
    similarity: str
    questions: str = ""
    """Digest of the file that they come from; empty for the data set's own."""


class CurateSummary(Record):
    """What a curation gave."""

    items: int
    caption_pairs: int
    image_pairs: int
    no_caption_pair: dict[str, int]
    """Reason -> items."""
    no_image_pair: dict[str, int]
    mean_similarity: float
    """Of all captions with their homologous one."""
    mean_self_vqa: float
    """Of all painted images."""
    quarantined: tuple[Quarantined, ...]
    throughput: Throughput | None = None
    """Of the command that finished the curation; none where all was sampled before."""


class Earlier(Record):
    """An item's latest pairs in earlier rounds."""

    captions: CaptionPair | None = None
    images: ImagePair | None = None


def earlier_pairs(files: Iterable[Path]) -> dict[str, Earlier]:
    """Latest pairs by item, from the pair files of earlier rounds in order.

    An item that made no pair in a round keeps the one it had.
    """
    latest: dict[str, Earlier] = {}
    for file in files:
        for preference in read_records(file, Preference):
            before = latest.get(preference.id, Earlier())
            latest[preference.id] = Earlier(
                captions=preference.captions or before.captions,
                images=preference.images or before.images,
            )
    return latest


def sample_chunk(
    model: UnifiedModel,
    similarity: Similarity,
    source: Source,
    items: Sequence[Item],
    config: CurateConfig,
    round_number: int,
    seed: int,
    features: Path,
) -> list[Candidates]:
    """All candidates of some items, scored; `features` is the folder for CLIP features of real images."""
    keys = [f"{round_number}/{item.id}" for item in items]
    real = model.encode(np.stack([source.image(item) for item in items]))
    captions = model.caption(real, keys, seed, caption_plan(config))
    painted = model.paint([item.caption for item in items], config.n, keys, seed, config.paint)
    asked = [item.questions for item, images in zip(items, painted, strict=True) for _ in images]
    tokens = [image.tokens for images in painted for image in images]
    told = model.answer(tokens, asked, config.answer)
    # All at once, for the batches; what follows finds the vectors kept.
    similarity.embed(
        [
            *(item.caption for item in items),
            *(one.text for row in captions for one in row),
            *(text for pair in zip(asked, told, strict=True) for text in compared(*pair)),
        ]
    )
    answered = iter(told)
    found = []
    for item, image, written, images in zip(items, real, captions, painted, strict=True):
        scores = caption_scores(similarity, item.caption, [one.text for one in written])
        answers = [matched(item.questions, next(answered), similarity) for _ in images]
        found.append(
            Candidates(
                id=item.id,
                round=round_number,
                caption=item.caption,
                category=item.category,
                objects=item.objects,
                questions=item.questions,
                image_codes=image.codes,
                image_features=save_features(features, image),
                captions=tuple(
                    CaptionCandidate(
                        index=i, text=one.text, token_ids=one.token_ids, seed=one.seed, score=score
                    )
                    for i, (one, score) in enumerate(zip(written, scores, strict=True))
                ),
                images=tuple(
                    ImageCandidate(
                        index=i,
                        codes=one.tokens.codes,
                        seed=one.seed,
                        answers=answer,
                        score=accuracy(item.questions, answer),
                    )
                    for i, (one, answer) in enumerate(zip(images, answers, strict=True))
                ),
            )
        )
    return found


def pair_item(
    candidates: Candidates, earlier: Earlier, config: CurateConfig, round_number: int
) -> Preference:
    """The item's preference under the paper's rules."""
    captions, caption_reason = choose_caption_pair(
        candidates.captions, round_number, earlier.captions, config.min_margin
    )
    images, image_reason = choose_image_pair(
        candidates.images, round_number, earlier.images, config.threshold, config.min_margin
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
    )


def curate(
    model: UnifiedModel,
    similarity: Similarity,
    source: Source,
    config: CurateConfig,
    folder: Path,
    round_number: int,
    seed: int,
    earlier: Mapping[str, Earlier],
    progress: Callable[[int, str], None],
) -> CurateSummary:
    """Curates every item of a source into `folder`; `progress` hears how many items are done, and how fast.

    A folder that holds part of the same curation is completed.

    Raises:
        StaleError: the folder holds a curation by other weights, data, seed or settings.
    """
    origin = Origin(
        model=model.fingerprint,
        precision=model.precision,
        data=source.name,
        round=round_number,
        seed=seed,
        n=config.n,
        captions=msgspec.to_builtins(list(caption_plan(config))),
        paint=msgspec.to_builtins(config.paint),
        answer=msgspec.to_builtins(config.answer),
        similarity=similarity.name,
        questions=asked_digest(config.questions, config.combine_questions),
    )
    _claim(folder, origin)
    log = CandidateLog(folder / CANDIDATES)
    done = {record.id for record in log.read()}
    waiting = [item for item in source.items if item.id not in done]
    progress(len(source.items) - len(waiting), "")
    before, begun = model.work, time.perf_counter()
    for start in range(0, len(waiting), config.chunk):
        chunk = waiting[start : start + config.chunk]
        features = folder / FEATURES
        log.append(sample_chunk(model, similarity, source, chunk, config, round_number, seed, features))
        progress(len(chunk), rates(model.work.since(before)))
    wanted = {item.id for item in source.items}
    everything = [record for record in log.read() if record.id in wanted]
    pairs = [
        pair_item(record, earlier.get(record.id, Earlier()), config, round_number) for record in everything
    ]
    write_records(folder / PAIRS, pairs)
    speed = throughput(model.work.since(before), time.perf_counter() - begun, len(waiting))
    summary = summarise(everything, pairs, source.quarantined, speed if waiting else None)
    write_file(folder / SUMMARY, msgspec.json.format(msgspec.json.encode(summary)))
    return summary


def _claim(folder: Path, origin: Origin) -> None:
    path = folder / ORIGIN
    if not path.is_file():
        write_file(path, msgspec.json.encode(origin))
        return
    stored = msgspec.json.decode(path.read_bytes(), type=Origin)
    changed = [
        f"{name} {getattr(stored, name)!r} -> {getattr(origin, name)!r}"
        for name in Origin.__struct_fields__
        if getattr(stored, name) != getattr(origin, name)
    ]
    if changed:
        raise StaleError(
            f"{folder}: was curated under other settings ({'; '.join(changed)}); "
            "use another --run, or remove this round's folder to curate it again"
        )


def summarise(
    candidates: Sequence[Candidates],
    pairs: Sequence[Preference],
    quarantined: tuple[Quarantined, ...],
    speed: Throughput | None,
) -> CurateSummary:
    """Counts and means of a curation."""
    similarities = [one.score for record in candidates for one in record.captions]
    accuracies = [one.score for record in candidates for one in record.images]
    return CurateSummary(
        items=len(candidates),
        caption_pairs=sum(pair.captions is not None for pair in pairs),
        image_pairs=sum(pair.images is not None for pair in pairs),
        no_caption_pair=dict(Counter(pair.caption_reason for pair in pairs if not pair.captions)),
        no_image_pair=dict(Counter(pair.image_reason for pair in pairs if not pair.images)),
        mean_similarity=float(np.mean(similarities)) if similarities else 0.0,
        mean_self_vqa=float(np.mean(accuracies)) if accuracies else 0.0,
        quarantined=quarantined,
        throughput=speed,
    )
