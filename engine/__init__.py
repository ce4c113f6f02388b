"""Serves one unified multimodal model: captions, answers, images, and a swap of its weights.

>>> from curate import load_source
>>> from engine import EMBEDDED_MODEL, CaptionSettings, Engine, ImageSettings
>>> source = load_source("shapes", split="train", limit=2, seed=0, image_size=48)
>>> items, pixels, _ = source.images(source.items())
>>> keys = [item.id for item in items]
>>> with Engine(EMBEDDED_MODEL) as engine:
...     real = engine.encode(pixels)
...     captions = engine.caption(real, keys, seed=0, plan=[CaptionSettings()] * 4)
...     made = engine.generate_images([item.caption for item in items], 2, keys, 0, ImageSettings(steps=4))
...     pictures = engine.decode([image.codes for image in made[0]])
>>> [len(row) for row in captions], [len(row) for row in made], pictures.shape
([4, 4], [2, 2], (2, 48, 48, 3))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.lazy import lazy_names

if TYPE_CHECKING:
    from engine.errors import HermesError as HermesError
    from engine.files.layout import EMBEDDED_MODEL as EMBEDDED_MODEL
    from engine.records import AnswerSettings as AnswerSettings
    from engine.records import CaptionSettings as CaptionSettings
    from engine.records import ImageSettings as ImageSettings
    from engine.records import ImageTokens as ImageTokens
    from engine.records import Item as Item
    from engine.records import Question as Question
    from engine.serving.engine import Engine as Engine

_HOMES = {
    "AnswerSettings": "engine.records",
    "CaptionSettings": "engine.records",
    "EMBEDDED_MODEL": "engine.files.layout",
    "Engine": "engine.serving.engine",
    "HermesError": "engine.errors",
    "ImageSettings": "engine.records",
    "ImageTokens": "engine.records",
    "Item": "engine.records",
    "Question": "engine.records",
}

__getattr__ = lazy_names(__name__, _HOMES)
