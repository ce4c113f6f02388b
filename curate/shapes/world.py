"""Seeded splits of homologous pairs: the n-th item of a split is a pure function of (seed, split, n).

A scene belongs to the split that its own digest names, so no image of one split can occur in another,
whatever the seeds.
"""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate.shapes.captions import CATEGORIES, draw_facts, write_caption
from curate.shapes.questions import write_questions
from curate.shapes.scene import Facts, Group, Scene, place, relation_between, render
from engine.records import Item

SPLITS = {"train": range(0, 8), "validation": range(8, 9), "evaluation": range(9, 10)}
"""Split -> the buckets (of ten) of a scene's digest that belong to it."""


def split_of(scene: Scene) -> str:
    """The only split in which a scene may occur."""
    digest = hashlib.blake2b(msgspec.msgpack.encode(scene), digest_size=8).digest()
    bucket = int.from_bytes(digest, "little") % 10
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def draw(split: str, seed: int, index: int) -> tuple[Facts, Scene, np.random.Generator]:
    """Facts and scene number `index` of a split; the generator goes on to words and questions."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    key = hashlib.blake2b(f"shapes/{split}/{seed}/{index}".encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    category = CATEGORIES[index % len(CATEGORIES)]
    while True:
        facts = draw_facts(category, rng)
        scene = place(facts, rng)
        if split_of(scene) == split:
            return facts, scene, rng


def item(split: str, seed: int, index: int) -> tuple[Item, Scene]:
    """Item number `index` of a split, and the scene that its image renders."""
    facts, scene, rng = draw(split, seed, index)
    return (
        Item(
            id=f"shapes-{split}-{seed}-{index:06d}",
            caption=write_caption(facts, rng),
            questions=write_questions(facts, rng),
            category=CATEGORIES[index % len(CATEGORIES)],
            objects=facts.total,
        ),
        scene,
    )


def image_facts(scene: Scene) -> Facts:
    """Everything that is true of an image, for questions whose answers a caption may not hold."""
    groups: dict[str, list[str]] = {}
    for placed in scene.objects:
        groups.setdefault(placed.shape, []).append(placed.color)
    relation = None
    if len(scene.objects) == 2 and len(groups) == 2:
        first, second = scene.objects
        relation = relation_between(
            first.left + first.size / 2 - second.left - second.size / 2,
            first.top + first.size / 2 - second.top - second.size / 2,
        )
    return Facts(
        groups=tuple(
            Group(shape=shape, count=len(colors), color=colors[0]) for shape, colors in groups.items()
        ),
        relation=relation,
    )


def image_of(item_id: str) -> NDArray[np.uint8]:
    """Pixels [CANVAS, CANVAS, 3] of an item of this world, from its id alone."""
    _, split, seed, index = item_id.split("-")
    return render(draw(split, int(seed), int(index))[1])
