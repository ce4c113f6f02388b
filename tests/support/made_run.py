"""A run's folder as two rounds leave it, made by hand: small, and of the text that a test wants."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from curate.evaluation.config import EvalConfig
from curate.evaluation.records import CategoryGap, GapReport, ItemScore
from curate.store.files import ORIGIN, PAIRS, SUMMARY, write_records
from curate.store.origin import Origin
from curate.store.outcomes import Sampled
from curate.store.shards import ShardStore
from engine.checkpoints.weights import fingerprint
from engine.files.atomic import write_file
from engine.files.layout import EMBEDDED_MODEL, WEIGHTS
from engine.files.seals import seal
from engine.records import (
    Candidates,
    CaptionCandidate,
    CaptionPair,
    ImageCandidate,
    ImagePair,
    Preference,
    Question,
)
from hermes_cli.reporting.gallery import INDEX, Gallery, GalleryImage, generated_file, real_file
from hermes_cli.run.event_log import Event, Process, log_event
from train.config import METRICS
from train.logging.metrics import ModalityMetrics, TrainStep

IMAGES = 2
DEAD = msgspec.structs.replace(Process.this(), start="of an earlier boot")
"""A process whose number another has now."""


def required(kind: type[msgspec.Struct], **known: Any) -> dict[str, Any]:
    """A record as JSON reads it; numbers that are not given are zero."""
    names = [one.encode_name for one in msgspec.structs.fields(kind) if one.required]
    return {name: known.get(name, 0) for name in names} | known


def measured(fingerprint: str, items: list[tuple[int, int, int]], text: str = "plain") -> GapReport:
    """An evaluation of items with (und, gen, asked) right answers; all are of one category."""
    per_item = tuple(
        ItemScore(id=f"item-{place}", und=und, und_asked=asked, gen=gen, gen_asked=IMAGES * asked)
        for place, (und, gen, asked) in enumerate(items)
    )
    und = sum(one.und for one in per_item) / sum(one.und_asked for one in per_item)
    gen = sum(one.gen for one in per_item) / sum(one.gen_asked for one in per_item)
    group = CategoryGap(und=und, und_se=0.01, gen=gen, gen_se=0.02, gap=und - gen, items=len(items))
    return GapReport(
        und=und, und_se=0.01, gen=gen, gen_se=0.02, gap=und - gen, gap_se=0.02, judge="pixel oracle",
        items=len(items), by_category={text: group}, by_objects={"1": group}, by_kind={text: group},
        fingerprint=fingerprint, config=EvalConfig(images=IMAGES), per_item=per_item,
    )  # fmt: skip


def save_evaluation(run: Path, number: int, report: GapReport, text: str = "plain") -> None:
    """eval.json and a gallery of one prompt."""
    folder = run / f"round-{number}"
    write_file(folder / "eval.json", msgspec.json.encode(report))
    seal(folder, ["eval.json"])
    stream = io.BytesIO()
    Image.fromarray(np.full((48, 48, 3), 40 * number, np.uint8)).save(stream, "PNG")
    for path in (generated_file(folder / "gallery", 0), real_file(folder / "gallery", 0)):
        write_file(path, stream.getvalue())
    image = GalleryImage(id="item-0", prompt=text, seed=7, questions=(text, text), right=(True, False))
    gallery = Gallery(fingerprint=report.fingerprint, images=(image,))
    write_file(folder / "gallery" / INDEX, msgspec.json.encode(gallery))
    seal(folder / "gallery", [INDEX])


def save_curation(run: Path, number: int, text: str = "plain", items: int = 3) -> None:
    """Sealed candidates, pairs, summary and origin; all text is `text`."""
    folder = run / f"round-{number}/curate"
    captions = tuple(
        CaptionCandidate(index=i, text=text, token_ids=(i,), seed=i, score=1.0 - i) for i in range(2)
    )
    images = tuple(
        ImageCandidate(index=i, codes=(i,) * 36, seed=i, answers=(text if i else "no",), score=float(i))
        for i in range(2)
    )
    question = Question(question=text, choices=(text, "no"), answer=text, kind=text)
    found, pairs = [], []
    for place in range(items):
        found.append(
            Candidates(
                id=f"item-{place}", round=number, caption=text, category=text, objects=2,
                questions=(question,), image_codes=(3,) * 36, captions=captions, images=images,
            )
        )  # fmt: skip
        caption_pair = CaptionPair(win=captions[0], lose=captions[1], win_round=number, lose_round=number)
        image_pair = ImagePair(win=images[1], lose=images[0], win_round=number, lose_round=number)
        pairs.append(
            Preference(
                id=f"item-{place}",
                caption=text,
                image_codes=(3,) * 36,
                captions=caption_pair,
                images=image_pair,
            )
        )
    with ShardStore(folder) as shards:
        shards.append([Sampled(number=place, item=item) for place, item in enumerate(found)])
        shards.seal(0)
    write_records(folder / PAIRS, pairs)
    origin = required(
        Origin, model=weights_of(run, number - 1), precision="float32", data="photos", similarity=text, n=2
    )
    write_file(folder / ORIGIN, json.dumps(origin).encode())
    summary = {
        "items": items, "caption_pairs": items, "image_pairs": items, "no_caption_pair": {},
        "no_image_pair": {}, "mean_similarity": 0.5, "mean_self_vqa": 0.5,
    }  # fmt: skip
    write_file(folder / SUMMARY, json.dumps(summary).encode())
    seal(folder, (ORIGIN, PAIRS, SUMMARY))


def save_training(run: Path, number: int, steps: int = 4) -> None:
    """Metrics of so many steps."""
    side = required(ModalityMetrics, pairs=1, loss=0.6, margin=0.25, win_gain=0.5)
    lines = [
        required(TrainStep, step=step + 1, loss=1.0 / (step + 1), accuracy=0.5, captions=side, images=None)
        for step in range(steps)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    folder = run / f"round-{number}/checkpoint.training"
    write_file(folder / METRICS, text.encode())
    seal(folder, [METRICS])


def save_weights(run: Path, number: int) -> None:
    """A sealed checkpoint folder that holds weights alone."""
    folder = run / f"round-{number}/checkpoint"
    write_file(folder / WEIGHTS, f"weights of round {number}".encode())
    seal(folder)


def weights_of(run: Path, number: int) -> str:
    """Fingerprint of the weights after a round."""
    return fingerprint(run / f"round-{number}/checkpoint" if number else EMBEDDED_MODEL)


def save_events(run: Path, *events: Event) -> None:
    """More lines of events.jsonl."""
    for event in events:
        log_event(run / "events.jsonl", event)


def made_run(run: Path, text: str = "plain", seconds: float = 1.0) -> Path:
    """Base and two rounds: the first gains on the generated side, the second loses it again and more."""
    write_file(run / "run.json", json.dumps({"seed": 3, "train": {"steps": 4, "warmup": 1}}).encode())
    rows = [[(2, 2, 3)] * 20, [(2, 4, 3)] * 19 + [(2, 3, 3)], [(2, 1, 3)] * 19 + [(3, 1, 3)]]
    for number, items in enumerate(rows):
        if number:
            save_weights(run, number)
        save_evaluation(run, number, measured(weights_of(run, number), items, text), text)
        for stage, done in (("curate", 3), ("reference", 3), ("train", 4)) if number else ():
            save_events(run, Event(number, stage, "done", done=done, total=done))
        save_events(run, Event(number, "eval", "done", done=20, total=20, seconds=seconds))
        if number:
            save_curation(run, number, text)
            save_training(run, number)
    return run
