"""`hermes inspect` as a user types it, on rounds made of pictures of the embedded world."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from page_elements import Elements
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from curate.shapes import oracle, world
from curate.store.files import ORIGIN, PAIRS, write_records
from curate.store.origin import Origin
from curate.store.outcomes import QuarantinedRow, Sampled
from curate.store.overview import ItemMarks, PairMarks, read_overview
from curate.store.shards import ShardStore
from engine.files.atomic import write_file
from engine.files.layout import EMBEDDED_MODEL
from engine.records import (
    Candidates,
    CaptionCandidate,
    CaptionPair,
    ImageCandidate,
    ImagePair,
    Preference,
    Provenance,
    Question,
)
from engine.tokenizers.codec import Pixels
from hermes_cli.inspection.items import InspectedItem, item_card
from hermes_cli.inspection.terminal import item_view, items_view, summary_view
from hermes_cli.main import app
from hermes_cli.pages.pictures import embed
from hermes_cli.pages.render import render_page

ITEMS, N = 24, 4
UNPAIRED = "shapes-train-0-000003"
MADE_FROM = Origin(
    model="cafe", precision="float32", data="shapes", round=1, seed=0, n=N, captions=None, image=None,
    answer=None, similarity="",
)  # fmt: skip


def candidates(pixels: Pixels) -> list[Candidates]:
    """Items whose images are those of this item and the next, and whose judge answers as the oracle does."""
    items = [world.item("train", 0, number)[0] for number in range(ITEMS)]
    codes = [pixels.codes(world.image_of(item.id)[None])[0] for item in items]
    pictures = pixels.images(codes)
    found = []
    for number, item in enumerate(items):
        images = []
        for index in range(N):
            of = (number + index) % ITEMS
            answers = tuple(one or "none" for one in oracle.judge(pictures[of], item.questions))
            right = [a == q.answer for a, q in zip(answers, item.questions, strict=True)]
            images.append(
                ImageCandidate(index=index, codes=codes[of], seed=index, answers=answers,
                               score=sum(right) / len(right))
            )  # fmt: skip
        captions = tuple(
            CaptionCandidate(index=i, text=items[(number + i) % ITEMS].caption, token_ids=(i,), seed=i,
                             score=0.9 - 0.1 * i)
            for i in range(N)
        )  # fmt: skip
        found.append(
            Candidates(
                id=item.id, round=1, caption=item.caption, category=item.category, objects=item.objects,
                questions=item.questions, image_codes=codes[number], captions=captions, images=tuple(images),
            )
        )  # fmt: skip
    return found


def preference(item: Candidates) -> Preference:
    best, worst = (pick(item.images, key=lambda one: one.score) for pick in (max, min))
    paired = best.score > worst.score and item.id != UNPAIRED
    return Preference(
        id=item.id,
        caption=item.caption,
        image_codes=item.image_codes,
        captions=CaptionPair(win=item.captions[0], lose=item.captions[-1], win_round=1, lose_round=1),
        images=ImagePair(win=best, lose=worst, win_round=1, lose_round=1) if paired else None,
        image_reason="" if paired else "best and worst score the same",
    )


def save(folder: Path, items: list[Candidates], bad: list[QuarantinedRow], pairs: list[Preference]) -> None:
    with ShardStore(folder) as shards:
        shards.append([*(Sampled(number=i, item=one) for i, one in enumerate(items)), *bad])
    write_records(folder / PAIRS, pairs)
    write_file(folder / ORIGIN, msgspec.json.encode(MADE_FROM))


@pytest.fixture(scope="module")
def made() -> list[Candidates]:
    return candidates(Pixels(EMBEDDED_MODEL / "image_tokenizer"))


@pytest.fixture(scope="module")
def run(made: list[Candidates], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "run"
    bad = [
        QuarantinedRow(number=ITEMS, where="items.jsonl:25", reason="image cannot be read", id="torn-picture")
    ]
    save(root / "round-1/curate", made, bad, [preference(one) for one in made])
    return root


def inspect(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def refused(cwd: Path, *arguments: str | Path) -> str:
    """What the command says on its one line."""
    command = [sys.executable, "-m", "hermes_cli.main", "inspect", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("hermes: ")
    assert done.stderr.strip().count("\n") == 0
    return done.stderr


def test_the_summary_counts_what_the_round_holds(run: Path, made: list[Candidates]) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    shown = inspect(run)
    pairs = sum(preference(one).images is not None for one in made)
    assert f"round 1: {ITEMS} items" in shown
    assert f"24 of 24  {pairs} of 24" in shown
    assert "best and worst score the same" in shown
    assert "image cannot be read" in shown
    assert made[19].id in shown
    assert made[20].id not in shown
    assert "and 4 more: --all lists them" in shown
    assert made[23].id in inspect(run, "--all")
    assert before == sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")), "it only looks"


def test_one_item_shows_every_candidate_and_every_answer(run: Path, made: list[Candidates]) -> None:
    item = next(one for one in made if preference(one).images)
    shown = inspect(run, "--item", item.id)
    assert all(one.text in shown for one in item.captions)
    assert all(question.question in shown for question in item.questions)
    marks = [line for line in shown.splitlines() if set("✓✗") & set(line)]
    assert len(marks) == len(item.questions)
    right = sum(
        a == q.answer for one in item.images for a, q in zip(one.answers, item.questions, strict=True)
    )
    # The judge is the oracle, so each mark stands twice, but for answers that the oracle does not have.
    assert "".join(marks).count("✓") == 2 * right
    assert "".join(marks).count("✗") >= N * len(item.questions) - right


def test_likelihoods_are_shown_where_there_are_any(made: list[Candidates], tmp_path: Path) -> None:
    likely = tuple(msgspec.structs.replace(one, likelihood=-0.25 * one.index) for one in made[0].images)
    item = msgspec.structs.replace(made[0], images=likely)
    save(tmp_path / "round-1/curate", [item], [], [preference(item)])
    shown = inspect(tmp_path, "--item", item.id, "--to", tmp_path / "page.html")
    assert "likelihood" in shown
    assert "-0.75" in shown
    assert "log-lik. -0.75" in (tmp_path / "page.html").read_text()
    assert "where likelihood breaks ties" in inspect(tmp_path)


def test_an_item_says_whose_samples_it_shows(made: list[Candidates], tmp_path: Path) -> None:
    item = made[0]
    source = Provenance(
        model="feed0123", precision="float32", origin="beef4567", seed=17, questions=item.questions,
        caption_scores=(), caption_seeds=(), image_scores=(), image_likelihoods=(), image_seeds=(),
        image_answers=(),
    )  # fmt: skip
    traced = msgspec.structs.replace(preference(item), provenance=source)
    save(tmp_path / "round-1/curate", [item], [], [traced])
    shown = inspect(tmp_path, "--item", item.id, "--to", tmp_path / "page.html")
    for text in (" ".join(shown.split()), (tmp_path / "page.html").read_text()):
        assert "round 1 · weights feed0123 · float32 · seed 17 · settings beef4567" in text


def test_numbers_are_written_as_json_with_the_agreement(run: Path, tmp_path: Path) -> None:
    assert "numbers: " in inspect(run, "--json", tmp_path / "inspect.json")
    found = json.loads((tmp_path / "inspect.json").read_text())
    assert found["items"] == ITEMS
    assert found["captions"]["pairs"] == ITEMS
    assert found["quarantined"] == {"image cannot be read": 1}
    agreement = found["agreement"]
    assert agreement["items"] == ITEMS
    assert agreement["images"] == ITEMS * N
    assert agreement["by_score"]["selection"]["value"] == agreement["pairs_right"]["value"] == 1
    assert agreement["by_score"]["rank_correlation"]["value"] == pytest.approx(1)
    unclear = agreement["answers"]["unclear"]["value"]
    assert agreement["answers"]["same"]["value"] == pytest.approx(1 - unclear)


def test_the_page_holds_the_pictures_and_nothing_from_elsewhere(run: Path, tmp_path: Path) -> None:
    assert "page: " in inspect(run, "--to", tmp_path / "page.html", "--items", "3")
    text = (tmp_path / "page.html").read_text()
    elements = Elements(text)
    names = [name for name, _ in elements.found]
    assert names.count("article") == 3
    assert names.count("script") == names.count("style") == 1
    assert names.count("img") == 3 * (1 + N)
    assert all(source.startswith("data:image/png;base64,") for source in elements.sources)
    picture = Image.open(io.BytesIO(base64.b64decode(elements.sources[0].partition(",")[2])))
    assert picture.size == (48, 48)
    assert "http" not in text.replace("http-equiv", "")
    assert "First 3 of 24 items" in text
    assert "Does the judge choose well?" in text


def test_a_large_picture_is_reduced_and_a_small_one_keeps_its_pixels() -> None:
    for side, shown, small in ((1024, 256, False), (48, 48, True)):
        found = embed(np.zeros((side, side, 3), np.uint8))
        picture = Image.open(io.BytesIO(base64.b64decode(found.uri.partition(",")[2])))
        assert (picture.size, found.small) == ((shown, shown), small)


def test_the_page_of_one_item_holds_that_item(run: Path, made: list[Candidates], tmp_path: Path) -> None:
    inspect(run, "--item", made[5].id, "--to", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<article") == 1
    assert made[5].id in text


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></title></svg><!-- & &amp; \x00 \x1b[2J \u202e",
)


def hostile(text: str) -> tuple[Candidates, Preference, QuarantinedRow]:
    """Everything that is text in a curation is this text."""
    questions = (Question(question=text, choices=(text, "no"), answer=text, kind=text),)
    captions = tuple(
        CaptionCandidate(index=i, text=text, token_ids=(i,), seed=0, score=1.0 - i) for i in range(2)
    )
    images = tuple(
        ImageCandidate(index=i, codes=(i,) * 36, seed=0, answers=(text,) if i else ("no",), score=float(i))
        for i in range(2)
    )
    item = Candidates(
        id=text, round=1, caption=text, category=text, objects=3, questions=questions, image_codes=(3,) * 36,
        captions=captions, images=images,
    )  # fmt: skip
    pair = CaptionPair(win=captions[0], lose=captions[1], win_round=1, lose_round=1)
    chosen = Preference(
        id=text, caption=text, image_codes=(3,) * 36, captions=pair, images=None, image_reason=text
    )
    return item, chosen, QuarantinedRow(number=1, where=text, reason=text, id="bad")


def rendered(folder: Path, text: str) -> str:
    item, chosen, bad = hostile(text)
    save(folder, [item], [bad], [chosen])
    overview = read_overview(folder, 1, None)
    marks = ItemMarks(
        captions=PairMarks(win=0, lose=1, win_score=1, lose_score=0), images=PairMarks(reason=text)
    )
    shown = InspectedItem(
        item=item, preference=chosen, marks=marks, oracle=((text,), (None,)), oracle_scores=(1.0, 0.0)
    )
    decode = Pixels(EMBEDDED_MODEL / "image_tokenizer").images
    page = render_page(
        "curation.html.j2", title=text, about=text, overview=overview, compared=None, judge=text,
        heading=text, cards=[item_card(shown, decode)],
    )  # fmt: skip
    return page.decode()


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_an_element_or_an_attribute(tmp_path: Path, text: str) -> None:
    plain = Elements(rendered(tmp_path / "plain", "a plain text"))
    found = rendered(tmp_path / "hostile", text)
    assert Elements(found).found == plain.found
    assert found.count("<script") == 1


def terminal(view: object, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_no_text_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    text = "[bold]no\x1b[2J\x07\u202e markup[/bold]\nnext"
    item, chosen, bad = hostile(text)
    save(tmp_path, [item], [bad], [chosen])
    overview = read_overview(tmp_path, 1, None)
    shown = InspectedItem(item=item, preference=chosen, marks=ItemMarks(), oracle=((text,), (None,)))
    for view in (summary_view(overview), items_view(overview), item_view(shown)):
        seen = terminal(view, 200)
        assert "[bold]no" in seen
        assert not {"\x1b", "\x07", "\u202e"} & set(seen)


def test_eighty_columns_are_enough(run: Path, made: list[Candidates]) -> None:
    overview = read_overview(run / "round-1/curate", 1, 5)
    item = made[4]
    shown = InspectedItem(item=item, preference=preference(item), marks=ItemMarks())
    for view in (summary_view(overview), items_view(overview), item_view(shown)):
        lines = terminal(view).splitlines()
        assert max(map(len, lines)) <= 80
    assert all(one.id in terminal(items_view(overview)) for one in overview.listed), (
        "ids are there to be copied"
    )


def test_a_loser_of_an_earlier_round_is_shown_with_its_round(made: list[Candidates], tmp_path: Path) -> None:
    item = msgspec.structs.replace(made[0], round=2)
    older = CaptionCandidate(index=0, text="an older caption", token_ids=(), seed=0, score=0.125)
    lost = ImageCandidate(index=0, codes=made[1].image_codes, seed=0, answers=(), score=0.25)
    pair = Preference(
        id=item.id, caption=item.caption, image_codes=item.image_codes,
        captions=CaptionPair(win=item.captions[0], lose=older, win_round=2, lose_round=1),
        images=ImagePair(win=item.images[0], lose=lost, win_round=2, lose_round=1),
    )  # fmt: skip
    save(tmp_path / "round-2/curate", [item], [], [pair])
    shown = inspect(tmp_path, "--item", item.id, "--to", tmp_path / "page.html")
    assert "an older caption" in shown
    assert "round 1" in shown
    text = (tmp_path / "page.html").read_text()
    assert Elements(text).found.count(("img", ("src", "alt", "title", "class"))) == 1 + N + 1
    assert "from round 1" in text


@pytest.mark.parametrize("changed", [{"data": "photos"}, {"questions": "a file's digest"}, None])
def test_other_images_and_other_questions_have_no_oracle(
    changed: dict[str, str] | None, made: list[Candidates], tmp_path: Path
) -> None:
    save(tmp_path / "round-1/curate", made[:2], [], [])
    path = tmp_path / "round-1/curate" / ORIGIN
    if changed is None:
        path.unlink()
    else:
        write_file(path, msgspec.json.encode(msgspec.structs.replace(MADE_FROM, **changed)))
    shown = inspect(tmp_path, "--json", tmp_path / "numbers.json")
    assert "oracle" not in shown
    assert json.loads((tmp_path / "numbers.json").read_text())["agreement"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda run: [run, "--item", "shapes-train-0-00007"], "or 'shapes-train-0-000007'"),
        (lambda run: [run, "--item", "nothing like it"], "leave out --item to list the items"),
        (
            lambda run: [run, "--item", "torn-picture"],
            "is quarantined (items.jsonl:25): image cannot be read",
        ),
        (lambda run: [run, "--round", "3"], "round 3 is not curated in"),
        (lambda run: [run.parent], "no round is curated in"),
        (lambda run: [run / "nowhere"], "no run in this folder"),
        (lambda run: [run, "--item", "a", "--json", "a.json"], "leave out --item"),
    ],
)
def test_a_mistake_is_one_line(
    run: Path, tmp_path: Path, arguments: Callable[[Path], list[str | Path]], words: str
) -> None:
    assert words in refused(tmp_path, *arguments(run))
    assert not list(tmp_path.iterdir())
