"""The gap: VQA accuracy on real images minus a judge's VQA accuracy on generated ones.

Both sides ask the same questions of the same held-out items. Standard errors are clustered by item,
since an item's questions share their images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from curate.evaluation.clustered import Estimate, Ratio, contrast, ratio
from curate.evaluation.config import EvalConfig
from curate.evaluation.records import CategoryGap, GapReport, ItemScore
from curate.protocol import UnifiedModel
from curate.scoring.self_vqa import matched
from curate.scoring.similarity import Similarity
from curate.shapes import oracle
from curate.sources import RowProblem, Source
from engine.errors import DataError
from engine.records import Item, SampledImage

Graded = list[list[bool]]
"""Items -> whether each of an item's questions was answered rightly, all its images in one list."""
Keep = Callable[[Item, SampledImage, Sequence[bool]], None]
"""Takes an item, the first image generated for it, and whether each of its questions was answered rightly."""


def clustered(graded: Graded) -> Estimate:
    """Accuracy over all questions; the error of a ratio of sums over items."""
    return ratio(map(sum, graded), map(len, graded))


def gap_error(und: Graded, gen: Graded) -> float:
    """Standard error of the difference of the two accuracies, paired by item."""
    first, second = (
        Ratio(sums=tuple(map(sum, graded)), counts=tuple(map(len, graded))) for graded in (und, gen)
    )
    return contrast((1, first), (-1, second)).se


def compare(und: Graded, gen: Graded) -> CategoryGap:
    """Both sides of one group of items."""
    first, second = clustered(und), clustered(gen)
    return CategoryGap(
        und=first.value,
        und_se=first.se,
        gen=second.value,
        gen_se=second.se,
        gap=first.value - second.value,
        items=len(und),
    )


def grouped(
    items: Sequence[Item], und: Graded, gen: Graded, key: Callable[[Item], str]
) -> dict[str, CategoryGap]:
    """`compare` for every value of a key of the items."""
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(key(item), []).append(index)
    return {
        name: compare([und[i] for i in chosen], [gen[i] for i in chosen])
        for name, chosen in sorted(groups.items())
    }


def by_kind(items: Sequence[Item], und: Graded, gen: Graded, images: int) -> dict[str, CategoryGap]:
    """`compare` for every kind of question."""
    found: dict[str, CategoryGap] = {}
    for kind in sorted({question.kind for item in items for question in item.questions}):
        picks = [[q.kind == kind for q in item.questions] for item in items]
        sides = []
        for graded, copies in ((und, 1), (gen, images)):
            kept = [
                [right for right, pick in zip(one, pick_row * copies, strict=True) if pick]
                for one, pick_row in zip(graded, picks, strict=True)
            ]
            sides.append([one for one in kept if one])
        found[kind] = compare(*sides)
    return found


def measure_gap(
    model: UnifiedModel,
    similarity: Similarity,
    source: Source,
    config: EvalConfig,
    progress: Callable[[int], None],
    keep: Keep | None = None,
) -> GapReport:
    """Measures a model on held-out items that have questions; unreadable images are left out and listed.

    An item's id and `config.seed` decide what is generated for it, and answers are not drawn at random: two
    measurements with the same source and config differ by their weights alone, and can be paired by item.
    `keep` is shown the first image of every item.

    Where no oracle can judge (data sets other than the embedded one) the model judges its own images,
    and the report says so: self-VQA is a training signal, not an independent result.

    Raises:
        DataError: no item can be measured.
    """
    und: Graded = []
    gen: Graded = []
    measured: list[Item] = []
    unreadable: list[RowProblem] = []
    everything = source.items()
    for start in range(0, len(everything), config.chunk):
        chunk = everything[start : start + config.chunk]
        items, pixels, bad = source.images([item for item in chunk if item.questions])
        unreadable += bad
        if items:
            measured += items
            told = model.answer(model.encode(pixels), [item.questions for item in items], config.answer)
            for item, answers in zip(items, told, strict=True):
                und.append(_grade(item, matched(item.questions, answers, similarity)))
            gen += _grade_generated(model, similarity, source, items, config, keep)
        progress(len(chunk))
    if not measured:
        raise DataError(f"{source.name}: no held-out item has both a question and an image that can be read")
    whole = compare(und, gen)
    return GapReport(
        und=whole.und,
        und_se=whole.und_se,
        gen=whole.gen,
        gen_se=whole.gen_se,
        gap=whole.gap,
        gap_se=gap_error(und, gen),
        judge="pixel oracle" if source.oracle else "self-VQA (no independent judge for this data set)",
        items=len(measured),
        by_category=grouped(measured, und, gen, lambda item: item.category),
        by_objects=grouped(measured, und, gen, lambda item: str(item.objects)),
        by_kind=by_kind(measured, und, gen, config.images),
        fingerprint=model.fingerprint,
        config=config,
        unreadable=tuple(unreadable),
        per_item=tuple(map(_item_score, measured, und, gen)),
    )


def _item_score(item: Item, und: list[bool], gen: list[bool]) -> ItemScore:
    return ItemScore(id=item.id, und=sum(und), und_asked=len(und), gen=sum(gen), gen_asked=len(gen))


def _grade(item: Item, answers: Sequence[str | None]) -> list[bool]:
    return [q.answer == answer for q, answer in zip(item.questions, answers, strict=True)]


def _grade_generated(
    model: UnifiedModel,
    similarity: Similarity,
    source: Source,
    items: Sequence[Item],
    config: EvalConfig,
    keep: Keep | None,
) -> Graded:
    keys = [f"eval/{item.id}" for item in items]
    generated = model.generate_images(
        [item.caption for item in items], config.images, keys, config.seed, config.image
    )
    graded: Graded = []
    for item, images in zip(items, generated, strict=True):
        if source.oracle:
            pixels: NDArray[np.uint8] = model.decode([image.codes for image in images])
            answers = [oracle.judge(one, item.questions) for one in pixels]
        else:
            asked = [item.questions] * len(images)
            told = model.answer(images, asked, config.answer)
            answers = [matched(item.questions, one, similarity) for one in told]
        graded.append([right for one in answers for right in _grade(item, one)])
        if keep is not None:
            keep(item, images[0], graded[-1][: len(item.questions)])
    return graded
