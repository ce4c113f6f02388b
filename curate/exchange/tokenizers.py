"""A checkpoint's tokenizers, without its weights: images to codes and back, captions to token ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curate.sources.images import square
from engine.checkpoints.weights import load_config
from engine.devices import compute_device
from engine.files.layout import CLIP_FOLDER
from engine.models.showo_config import ShowoConfig
from engine.records import ImageTokens, Preference
from engine.tokenizers.codec import Pixels
from engine.tokenizers.text import TextTokenizer

if TYPE_CHECKING:
    from engine.models.clip_tower import ClipTower

_TEXT, _IMAGE = "tokenizer.json", "image_tokenizer"
_DEFAULT_QUESTION = "Give a caption for this image."
"""Stands where a model's caption prompt holds markers alone."""
_MARKERS = re.compile(r"^\s*USER:\s*|\s*ASSISTANT:\s*$")


def caption_question(caption_prompt: str) -> str:
    """A caption prompt without Show-o's chat markers: a leading `USER:` and a trailing `ASSISTANT:`.

    Other trainers put their own model's markers around the question.
    """
    return _MARKERS.sub("", caption_prompt).strip() or _DEFAULT_QUESTION


class Tokenizers:
    """Everything that pairs need of a model to go out and to come in.

    Raises (constructor):
        CheckpointError: files are missing or cannot be used.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.config: ShowoConfig = load_config(checkpoint)
        self.question = caption_question(self.config.caption_prompt)
        """What captions answer, without chat markers."""
        self._text = TextTokenizer.load(checkpoint / _TEXT)
        device = compute_device()
        self._pixels = Pixels(checkpoint / _IMAGE, device)
        self._tower: ClipTower | None = None
        if self.config.w_clip_vit:
            from engine.models.clip_tower import ClipTower

            self._tower = ClipTower.load(checkpoint / CLIP_FOLDER, device)
        self.name = _digest(checkpoint, self.config.w_clip_vit)
        """Digest of the files that make codes, token ids and features."""
        self._room = self.config.max_position_embeddings - len(self._text.encode(self.config.caption_prompt))
        self._room -= self.config.prefix_length + 2

    def decode(self, codes: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """Codes of B images -> uint8 [B, H, W, 3]."""
        return self._pixels.images(codes)

    def image_tokens(self, image: Image.Image, seen: bool = False) -> ImageTokens:
        """An image, cropped to a square; with `seen`, what CLIP sees of it too, where the model needs it."""
        size = max(self._pixels.size, self._tower.size if self._tower else 0)
        pixels = np.array(square(image, size))[None]
        codes = self._pixels.codes(self._pixels.scaled(pixels))[0]
        if self._tower is None or not seen:
            return ImageTokens(codes=codes)
        return ImageTokens(codes=codes, features=self._tower.features(pixels)[0].astype("<f4").tobytes())

    def token_ids(self, caption: str) -> tuple[int, ...]:
        """A caption as the model itself would go on after its prompt: behind a blank."""
        return tuple(self._text.encode(" " + caption.strip()))

    def misfit(self, preference: Preference) -> str:
        """Why the model cannot train on a preference; empty where it can."""
        config, captions, images = self.config, preference.captions, preference.images
        codes = [images.win.codes, images.lose.codes] if images else []
        ids = [captions.win.token_ids, captions.lose.token_ids] if captions else []
        for one in [*codes, preference.image_codes] if captions else codes:
            if len(one) != config.num_image_tokens or not all(0 <= x < config.codebook_size for x in one):
                return f"an image of {len(one)} codes does not fit the model"
        for one in ids:
            if not all(0 <= x < config.vocabulary.size for x in one):
                return "a caption holds ids beyond the model's vocabulary"
            if len(one) > self._room:
                return f"a caption of {len(one)} tokens is longer than the model's {self._room}"
        return ""


def _digest(checkpoint: Path, has_tower: bool) -> str:
    digest = blake2b(digest_size=8)
    folders = [_IMAGE, CLIP_FOLDER] if has_tower else [_IMAGE]
    files = [f"{one}/{file}" for one in folders for file in ("config.json", "model.safetensors")]
    for file in [_TEXT, *files]:
        digest.update(f"{file}\0".encode())
        with (checkpoint / file).open("rb") as stream:
            file_digest(stream, lambda: digest)
    return digest.hexdigest()
