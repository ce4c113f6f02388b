"""How an image and a text become a request to vLLM: as codes, or as projected CLIP features.

Features go to vLLM before the rest of their prompt, `features [mmu] system [soi] [eoi] text`, and the served
model gives every token the position that it has in `[mmu] system [soi] features [eoi] text`. Show-o lets the
features see each other and the system prompt, and lets the system prompt see the features but itself only
causally. In the served order the features are a bidirectional start and all the rest is causal, which paged
attention can do exactly.

Legend: N features of an image, F their width, D hidden, T tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import CheckpointError, InputError
from engine.files.layout import CLIP_FOLDER
from engine.models.clip_tower import ClipTower
from engine.models.showo_config import ShowoConfig
from engine.records import ImageTokens
from engine.samplers.continuations import ImageQuestions, Prefix, TokenizedQuestion

FEATURE_IMAGES = 32
"""Images whose embedded prompts are held at a time: at full size each prompt is 5 MB in float32."""


class Prompts:
    """How an image, and texts behind it, are written for a model: `[mmu][soi] codes [eoi][sot] text`."""

    window = 0
    """Images to prepare at a time, 0 for all."""

    def __init__(self, config: ShowoConfig) -> None:
        self._config = config

    def windows(self, images: Sequence[ImageTokens]) -> Iterator[tuple[slice, list[ImageTokens]]]:
        """The images in parts that are prepared together: where a part lies, and what `seen` gives of it."""
        size = self.window or max(1, len(images))
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            yield part, self.seen(images[part])

    def seen(self, images: Sequence[ImageTokens]) -> list[ImageTokens]:
        """The images with everything that understanding looks at."""
        return list(images)

    def requests(self, image: ImageTokens, texts: Sequence[Sequence[int]], room: int) -> list[dict[str, Any]]:
        """A prompt for vLLM of every text after the image, each leaving `room` tokens for the answer.

        Raises:
            InputError: not an image of this model, or a text is too long.
        """
        (ids, _), start = self.image_prefix(image)
        # Blocks of an image depend on all of it, also on what comes after them: the salt names the whole.
        salt = image.salt()
        return [
            {"prompt_token_ids": fitting([*ids, *start, *text], room, self._config), "cache_salt": salt}
            for text in texts
        ]

    def image_prefix(self, image: ImageTokens) -> tuple[Prefix, tuple[int, ...]]:
        """The image in the model's own order, and the ids with which every text after it begins.

        Raises:
            InputError: not an image of this model.
        """
        check_codes(image, self._config)
        words = self._config.vocabulary
        return Prefix(words.mmu_prefix(image.codes)), (words.bos,)

    def prefix(self, image: ImageTokens, text: Sequence[int], room: int) -> Prefix:
        """What all continuations of a text after the image share; it leaves `room` tokens for each.

        Raises:
            InputError: not an image of this model, or the text is too long.
        """
        (ids, features), start = self.image_prefix(image)
        return Prefix(fitting([*ids, *start, *text], room, self._config), features)

    def questions(self, image: ImageTokens, questions: Sequence[TokenizedQuestion]) -> ImageQuestions:
        """The image with questions, their choices, and room after each.

        Raises:
            InputError: not an image of this model, or a question is too long.
        """
        prefix, start = self.image_prefix(image)
        whole = [one._replace(text=(*start, *one.text)) for one in questions]
        for one in whole:
            fitting([*prefix.ids, *one.text], max([one.room, *map(len, one.choices)]), self._config)
        return ImageQuestions.of(prefix, whole)


class FeaturePrompts(Prompts):
    """`features [mmu] system [soi][eoi] text`: `Vocabulary.feature_prompt` with the features moved ahead."""

    window = FEATURE_IMAGES

    def __init__(
        self,
        config: ShowoConfig,
        tower: ClipTower,
        decode: Callable[[Sequence[Sequence[int]]], NDArray[np.uint8]],
        project: Callable[[Tensor], Tensor],
    ) -> None:
        """`decode` turns codes into pixels; `project` turns features [N, F] into embeddings [N, D]."""
        super().__init__(config)
        self._ids = config.vocabulary.feature_prompt(config.system_ids, config.clip_tokens, ())
        self._tower = tower
        self._decode = decode
        self._project = project

    def features(self, images: NDArray[np.uint8]) -> list[bytes]:
        """uint8 [B, H, W, 3] -> what `ImageTokens.features` holds of each."""
        return [row.astype("<f4").tobytes() for row in self._tower.features(images)]

    def seen(self, images: Sequence[ImageTokens]) -> list[ImageTokens]:
        # A sampled image is codes alone: it is decoded, and CLIP looks at its pixels.
        sampled = [i for i, image in enumerate(images) if not image.features]
        found = list(images)
        if sampled:
            for i in sampled:
                check_codes(images[i], self._config)
            drawn = self._decode([images[i].codes for i in sampled])
            for i, features in zip(sampled, self.features(drawn), strict=True):
                found[i] = ImageTokens(codes=images[i].codes, features=features)
        return found

    def requests(self, image: ImageTokens, texts: Sequence[Sequence[int]], room: int) -> list[dict[str, Any]]:
        embedded, salt = self._project(self._features(image)), image.salt()
        every = [self._served(fitting([*self._ids, *text], room, self._config)) for text in texts]
        # Behind the features only the length counts, so an image's prompts of one length share a tensor.
        count = self._config.clip_tokens
        padded = {
            length: torch.cat((embedded, embedded.new_zeros(length - count, embedded.shape[1])))
            for length in {len(ids) for ids in every}
        }
        return [
            {
                "prompt_embeds": padded[len(ids)],
                "prompt_token_ids": ids,
                "prompt_is_token_ids": [place >= count for place in range(len(ids))],
                "cache_salt": salt,
            }
            for ids in every
        ]

    def image_prefix(self, image: ImageTokens) -> tuple[Prefix, tuple[int, ...]]:
        return Prefix(self._ids, self._features(image)), ()

    def _features(self, image: ImageTokens) -> Tensor:
        """[N, F] of an image that has them."""
        shape = (self._config.clip_tokens, self._config.clip_size)
        if len(image.features) != 4 * shape[0] * shape[1]:
            raise InputError(
                f"an image is {shape[0]} features of {shape[1]} float32 numbers,"
                f" not {len(image.features)} bytes; take it from `encode`"
            )
        return torch.from_numpy(np.frombuffer(image.features, "<f4").reshape(shape).copy())

    def _served(self, ids: list[int]) -> list[int]:
        """A prompt in the served order."""
        start, stop = self._config.image_start, self._config.image_start + self._config.clip_tokens
        return [*ids[start:stop], *ids[:start], *ids[stop:]]


def open_prompts(
    checkpoint: Path,
    config: ShowoConfig,
    decode: Callable[[Sequence[Sequence[int]]], NDArray[np.uint8]],
    project: Callable[[Tensor], Tensor],
    device: torch.device,
) -> Prompts:
    """The prompts of a checkpoint, with its CLIP tower on a device where understanding sees through one.

    Raises:
        CheckpointError: the tower is missing, or gives other features than the model takes.
    """
    if not config.w_clip_vit:
        return Prompts(config)
    tower = ClipTower.load(checkpoint / CLIP_FOLDER, device)
    if (tower.tokens, tower.width) != (config.clip_tokens, config.clip_size):
        raise CheckpointError(
            f"{checkpoint / CLIP_FOLDER}: gives {tower.tokens} features of {tower.width},"
            f" the model takes {config.clip_tokens} of {config.clip_size}"
        )
    return FeaturePrompts(config, tower, decode, project)


def served_positions(positions: Tensor, config: ShowoConfig) -> Tensor:
    """Positions [T] that the model knows, from places in the served order."""
    if not config.w_clip_vit:
        return positions
    start, count = config.image_start, config.clip_tokens
    moved = torch.where(positions < count, positions + start, positions - count)
    return torch.where(positions < count + start, moved, positions)


def check_codes(image: ImageTokens, config: ShowoConfig) -> None:
    """Whether the codes are an image of this model.

    Raises:
        InputError: they are not.
    """
    codes = image.codes
    if len(codes) != config.num_image_tokens or not all(0 <= c < config.codebook_size for c in codes):
        raise InputError(
            f"an image is {config.num_image_tokens} codes below {config.codebook_size},"
            f" not {len(codes)} codes from {min(codes, default=0)} to {max(codes, default=0)}"
        )


def fitting(ids: list[int], room: int, config: ShowoConfig) -> list[int]:
    """The ids.

    Raises:
        InputError: they and `room` more are too many for the model.
    """
    if len(ids) + room > config.max_position_embeddings:
        raise InputError(
            f"{len(ids)} prompt tokens and {room} to generate exceed the model's"
            f" {config.max_position_embeddings} positions; shorten the text or lower max_tokens"
        )
    return ids
