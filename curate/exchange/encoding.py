"""Incoming pairs as preferences: images become codes, captions token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from PIL import Image

from curate.exchange.files import read_image
from curate.exchange.incoming import ABSENT, GeneratedImages, Incoming, Picture, UnusableError, Written
from curate.sources.images import decode_rgb
from engine.errors import DataError
from engine.files.clip_features import save_features
from engine.records import (
    CaptionCandidate,
    CaptionPair,
    ImageCandidate,
    ImagePair,
    ImageTokens,
    Preference,
)

if TYPE_CHECKING:
    from curate.exchange.tokenizers import Tokenizers


class Encoder:
    """Turns rows into preferences of one model and round.

    Images are looked for in `folders`; CLIP features of real images are written into `features`.
    """

    def __init__(
        self, tokenizers: Tokenizers, folders: Sequence[Path], features: Path, round_number: int
    ) -> None:
        self._tokenizers = tokenizers
        self._folders = folders
        self._features = features
        self._round = round_number

    def preference(self, row: Incoming, fallback_id: str) -> tuple[Preference, tuple[str, ...]]:
        """The preference of a row, and why a side that the row has cannot be used.

        Raises:
            UnusableError: no side can be used.
        """
        if row.record is not None and row.tokenizers in ("", self._tokenizers.name):
            return self._kept(row.record, row.features), ()
        captions, images = self._captions(row), self._images(row)
        x = captions[1] if isinstance(captions, tuple) else ImageTokens(codes=())
        found = Preference(
            id=row.id or fallback_id,
            caption=row.caption,
            image_codes=x.codes,
            captions=captions[0] if isinstance(captions, tuple) else None,
            images=images if isinstance(images, ImagePair) else None,
            caption_reason=captions if isinstance(captions, str) else "",
            image_reason=images if isinstance(images, str) else "",
        )
        reasons = {"captions": found.caption_reason, "images": found.image_reason}
        problems = tuple(f"{side}: {one}" for side, one in reasons.items() if one not in ("", ABSENT))
        if found.captions is None and found.images is None:
            raise UnusableError("; ".join(problems) or "it has no pair")
        self._check(found)
        return _with_features(found, save_features(self._features, x)), problems

    def _kept(self, record: Preference, features: bytes) -> Preference:
        """A record as it is, with its features."""
        self._check(record)
        config = self._tokenizers.config
        if record.captions is None or not config.w_clip_vit:
            return record
        if len(features) != 4 * config.clip_tokens * config.clip_size:
            raise UnusableError("the CLIP features of the real image are missing")
        seen = ImageTokens(codes=record.image_codes, features=features)
        return _with_features(record, save_features(self._features, seen))

    def _check(self, preference: Preference) -> None:
        if misfit := self._tokenizers.misfit(preference):
            raise UnusableError(misfit)

    def _captions(self, row: Incoming) -> tuple[CaptionPair, ImageTokens] | str:
        if isinstance(row.captions, str):
            return row.captions
        try:
            if row.image is None:
                raise UnusableError("an image is missing")
            return self._caption_pair(row.captions), self._tokenizers.image_tokens(
                self._open(row.image), True
            )
        except UnusableError as error:
            return str(error)

    def _caption_pair(self, pair: Written) -> CaptionPair:
        win, lose = (self._tokenizers.token_ids(text) for text in (pair.win, pair.lose))
        if not win or not lose:
            raise UnusableError("a caption has no tokens")
        if win == lose:
            raise UnusableError("winner and loser are the same tokens")
        return CaptionPair(
            win=CaptionCandidate(index=0, text=pair.win, token_ids=win, seed=0, score=pair.scores[0]),
            lose=CaptionCandidate(index=1, text=pair.lose, token_ids=lose, seed=0, score=pair.scores[1]),
            win_round=self._round,
            lose_round=self._round,
        )

    def _images(self, row: Incoming) -> ImagePair | str:
        if isinstance(row.images, str):
            return row.images
        try:
            if not row.caption:
                raise UnusableError("the caption is empty")
            return self._image_pair(row.images)
        except UnusableError as error:
            return str(error)

    def _image_pair(self, pair: GeneratedImages) -> ImagePair:
        win, lose = (self._tokenizers.image_tokens(self._open(one)).codes for one in (pair.win, pair.lose))
        if win == lose:
            raise UnusableError("winner and loser are the same image")
        return ImagePair(
            win=ImageCandidate(index=0, codes=win, seed=0, answers=(), score=pair.scores[0]),
            lose=ImageCandidate(index=1, codes=lose, seed=0, answers=(), score=pair.scores[1]),
            win_round=self._round,
            lose_round=self._round,
            tie=pair.scores[0] == pair.scores[1],
        )

    def _open(self, picture: Picture) -> Image.Image:
        try:
            if picture.data:
                return decode_rgb(picture.data, "the embedded image")
            return read_image(self._folders, picture.name)
        except DataError as error:
            raise UnusableError(str(error)) from error


def _with_features(preference: Preference, name: str) -> Preference:
    return msgspec.structs.replace(preference, image_features=name) if name else preference
