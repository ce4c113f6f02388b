"""Pictures of the report: held-out prompts as every round paints them, and candidates of the latest round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.errors import HermesError
from hermes_cli.inspection.cards import SMALL, card, data_uri
from hermes_cli.inspection.charts import sections
from hermes_cli.inspection.items import Shown
from hermes_cli.inspection.markup import Markup, tag
from hermes_cli.inspection.round import InspectedRound
from hermes_cli.reporting.gallery import Gallery, GalleryImage, painted_file, read_gallery, real_file
from hermes_cli.reporting.rounds import prose, short_name
from hermes_cli.run.folder import RunFolder

CARDS = 4
_AMONG = 24
"""Items from whose beginning the cards are chosen."""


def gallery_part(folder: RunFolder, numbers: Sequence[int]) -> Markup:
    """Prompts as rows, rounds as columns."""
    notes: list[str] = []
    found: dict[int, Gallery] = {}
    for number in numbers:
        try:
            gallery = read_gallery(folder.gallery(number))
        except HermesError as error:
            notes.append(str(error))
            continue
        if gallery is not None:
            found[number] = gallery
    said = [tag("p", prose(note), class_="note") for note in notes]
    if not any(gallery.images for gallery in found.values()):
        content = tag("p", prose("No pictures were kept yet: `hermes eval` keeps them."), class_="note")
        return tag("section", tag("h2", "The same prompts"), content, *said, class_="card", id="gallery")
    prompts = list(dict.fromkeys(one.id for gallery in found.values() for one in gallery.images))
    head = [tag("th", "prompt"), tag("th", "real image")]
    head += [tag("th", short_name(number)) for number in found]
    rows = [_prompt(folder, found, id_) for id_ in prompts]
    note = (
        "Every picture of a row is painted with the same seed, so only the weights differ. Below stands how "
        "many of the prompt's questions the judge finds answered rightly."
    )
    return tag(
        "section",
        tag("h2", "The same prompts, round by round"),
        tag("p", prose(note), class_="note"),
        tag("div", tag("table", tag("tr", *head), *rows, class_="gallery"), class_="scroll"),
        *said,
        class_="card",
        id="gallery",
    )


def _prompt(folder: RunFolder, found: dict[int, Gallery], id_: str) -> Markup:
    """A row: the prompt, its real image, and what each round painted."""
    cells, real, prompt = [], None, ""
    for number, gallery in found.items():
        place = next((i for i, one in enumerate(gallery.images) if one.id == id_), None)
        if place is None:
            cells.append(tag("td", "-"))
            continue
        one = gallery.images[place]
        prompt = prompt or one.prompt
        real = real or _picture(real_file(folder.gallery(number), place), "the real image", "")
        cells.append(tag("td", _painted(folder.gallery(number), place, one, number)))
    return tag(
        "tr",
        tag("th", prompt, dir="auto"),
        tag("td", real if real else tag("span", "-"), class_="real"),
        *cells,
    )


def _painted(folder: Path, place: int, one: GalleryImage, number: int) -> Markup:
    answers = "\n".join(
        f"{'✓' if right else '✗'} {question}"
        for question, right in zip(one.questions, one.right, strict=False)
    )
    alt = f"painted by {short_name(number)}"
    picture = _picture(painted_file(folder, place), alt, f"seed {one.seed}\n{answers}")
    share = f"{sum(one.right)} of {len(one.right)}"
    class_ = "right" if one.right and all(one.right) else None
    return tag("figure", sections(picture or tag("span", "-")), tag("figcaption", share, class_=class_))


def _picture(path: Path, alt: str, title: str) -> Markup | None:
    """A stored picture inside the page; None where it is missing or cannot be read."""
    from curate.sources.images import read_rgb

    try:
        pixels = np.asarray(read_rgb(path))
    except HermesError:
        return None
    sharp = "pixel" if pixels.shape[1] < SMALL else None
    return tag("img", src=data_uri(pixels), alt=alt, title=title or None, class_=sharp)


def candidates_part(found: InspectedRound | None) -> Markup:
    """Cards of a few items of a round, of different categories where there are."""
    if found is None:
        content = tag(
            "p", prose("No round is curated yet: `hermes curate` samples candidates."), class_="note"
        )
        return tag("section", tag("h2", "Candidates"), content, class_="card", id="candidates")
    heading = f"Candidates of round {found.number}"
    try:
        chosen = choose(found.first(_AMONG))
        cards = [card(one, found.decode, opened=place == 0) for place, one in enumerate(chosen)]
    except HermesError as error:
        content = tag("p", f"They cannot be shown: {error}", class_="note")
        return tag("section", tag("h2", heading), content, class_="card", id="candidates")
    note = f"{len(cards)} items; `hermes inspect` shows all of them, and other rounds."
    head = tag("div", tag("h2", heading), tag("p", prose(note), class_="note"))
    return tag("section", head, *cards, class_="items", id="candidates")


def choose(shown: Sequence[Shown], count: int = CARDS) -> list[Shown]:
    """Items with pairs first, each category once before any comes twice; in their order."""
    met: dict[str, int] = {}
    ranked = []
    for place, one in enumerate(shown):
        paired = one.marks.images.paired
        turn = met[one.item.category] = met.get(one.item.category, -1) + paired
        ranked.append(((not paired, turn), place))
    return [shown[place] for place in sorted(place for _, place in sorted(ranked)[:count])]
