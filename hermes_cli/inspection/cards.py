"""The card of one item on the inspection page: its image, every candidate, and the answers about them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curate.store.overview import Marks
from engine.records import ImageCandidate
from hermes_cli.inspection.charts import sections
from hermes_cli.inspection.items import Shown, sampled_by
from hermes_cli.inspection.markup import Markup, join, tag

Decode = Callable[[Sequence[Sequence[int]]], NDArray[np.uint8]]

LARGEST, SMALL = 256, 128
"""Pixels on a side: what a picture is reduced to, and below what its pixels are shown as squares."""


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """A picture uint8 [H, W, 3] as PNG in a URI, at most LARGEST pixels on a side."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def card(shown: Shown, decode: Decode, opened: bool = False) -> Markup:
    """The card of an item; `opened` shows its questions at once."""
    item = shown.item
    tags = [item.category, f"{item.objects} objects" if item.objects > 1 else ""]
    head = tag(
        "header",
        tag("code", item.id),
        *(tag("span", one, class_="chip") for one in tags if one),
    )
    return tag(
        "article",
        head,
        tag("p", item.caption, class_="caption", dir="auto"),
        _pictures(shown, decode),
        _captions(shown),
        _questions(shown, opened),
        tag("p", sampled_by(shown), class_="note"),
        class_="card item",
        data_flags=" ".join(_flags(shown)),
    )


def _flags(shown: Shown) -> list[str]:
    """What the page's choice of items goes by."""
    images, captions = shown.marks.images, shown.marks.captions
    flags = ["pair-of-images" if images.paired else "no-pair-of-images"]
    flags += ["pair-of-captions"] if captions.paired else []
    truth = dict(zip((one.index for one in shown.item.images), shown.oracle_scores, strict=False))
    if images.win in truth and images.lose in truth and truth[images.win] <= truth[images.lose]:
        flags.append("differs")
    return flags


def _name(index: int, marks: Marks) -> str:
    return "won" if index == marks.win else "lost" if index == marks.lose else ""


_WORDS = {"won": "winner", "lost": "loser"}


def _badge(name: str) -> Markup | None:
    return tag("mark", _WORDS[name], class_=name) if name else None


def _pictures(shown: Shown, decode: Decode) -> Markup:
    """The real image as the tokenizer gives it back, and the painted ones."""
    item, marks = shown.item, shown.marks.images
    older = shown.preference.images if shown.preference and marks.paired and marks.lose is None else None
    codes = [item.image_codes, *(one.codes for one in item.images)]
    pixels = decode([*codes, older.lose.codes] if older else codes)
    sharp = "pixel" if pixels.shape[1] < SMALL else None
    uris = [data_uri(one) for one in pixels]
    real = tag(
        "figure",
        tag("img", src=uris[0], alt="the real image", class_=sharp),
        tag("figcaption", "real image"),
        class_="real",
    )
    tiles = [
        _tile(one, uri, _name(one.index, marks), sharp, _oracle_score(shown, place))
        for place, (one, uri) in enumerate(zip(item.images, uris[1:], strict=False))
    ]
    if older:
        tiles.append(_tile(older.lose, uris[-1], "lost", sharp, f"from round {older.lose_round}"))
    why = None if marks.paired else tag("p", f"No pair of images: {marks.reason}.", class_="note")
    grid = tag("div", tag("div", *tiles, class_="grid"), sections(why))
    return tag("div", real, grid, class_="pictures")


def _oracle_score(shown: Shown, place: int) -> str:
    return f"oracle {shown.oracle_scores[place]:.2f}" if shown.oracle_scores else ""


def _tile(one: ImageCandidate, uri: str, name: str, sharp: str | None, below: str) -> Markup:
    alt = f"candidate {one.index} {_WORDS.get(name, '')}".strip()
    picture = tag("img", src=uri, alt=alt, class_=sharp, title=f"seed {one.seed}")
    notes = [below, "" if one.likelihood is None else f"log-lik. {one.likelihood:.2g}"]
    return tag(
        "figure",
        tag("div", picture, sections(_badge(name))),
        tag("figcaption", tag("span", f"{one.index}"), tag("b", f"{one.score:.2f}")),
        *(tag("small", note) for note in notes if note),
        class_=name or None,
    )  # fmt: skip


def _captions(shown: Shown) -> Markup:
    """Captions by score, the best first."""
    marks = shown.marks.captions
    rows = [
        _caption(f"{one.index}", one.score, one.text, _name(one.index, marks), f"seed {one.seed}")
        for one in sorted(shown.item.captions, key=lambda one: -one.score)
    ]
    pair = shown.preference.captions if shown.preference else None
    if pair is not None and marks.lose is None:
        rows.append(_caption("", pair.lose.score, pair.lose.text, "lost", f"from round {pair.lose_round}"))
    why = None if marks.paired else tag("p", f"No pair of captions: {marks.reason}.", class_="note")
    return join(tag("ol", *rows, class_="captions"), sections(why))


def _caption(index: str, score: float, text: str, name: str, title: str) -> Markup:
    return tag(
        "li",
        tag("span", index, class_="place"),
        tag("b", f"{score:.3f}"),
        tag("span", tag("span", text, dir="auto"), " ", sections(_badge(name)), class_="text"),
        class_=name or None,
        title=title,
    )


def _questions(shown: Shown, opened: bool) -> Markup:
    """Questions by candidates; wrong answers are spelled out, and the oracle's where it differs."""
    item, marks = shown.item, shown.marks.images
    if not item.questions or not item.images:
        return tag("p", "No questions.", class_="note")
    names = [_name(one.index, marks) for one in item.images]
    head = tag(
        "tr",
        tag("th", "question"),
        tag("th", "answer"),
        *(
            tag("th", str(one.index), class_=name or None)
            for one, name in zip(item.images, names, strict=True)
        ),
    )
    rows = [
        tag(
            "tr",
            tag("th", question.question, dir="auto"),
            tag("td", question.answer, dir="auto"),
            *(_answer(shown, image, place) for image in range(len(item.images))),
        )
        for place, question in enumerate(item.questions)
    ]
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="answers")
    note = None
    if shown.oracle:
        note = tag(
            "p", "Below an answer stands the oracle's where it differs; ?: it sees none.", class_="note"
        )
    return tag(
        "details",
        tag("summary", f"{len(item.questions)} questions, {len(item.images)} images"),
        tag("div", table, class_="scroll"),
        sections(note),
        open=opened,
    )


def _answer(shown: Shown, image: int, place: int) -> Markup:
    question, told = shown.item.questions[place], shown.item.images[image].answers[place]
    right = told == question.answer
    said = tag("span", "✓", title=told) if right else join("✗ ", tag("span", told, dir="auto"))
    below = None
    if shown.oracle and (theirs := shown.oracle[image][place]) != told:
        good = theirs == question.answer
        below = tag(
            "small", "?" if theirs is None else "✓" if good else theirs, class_="right" if good else "wrong"
        )
    return tag("td", said, sections(below), class_="right" if right else "wrong")
