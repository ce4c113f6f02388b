"""Incoming pairs as preferences: images become codes, captions token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace
from PIL import Image

from curate.exchange.incoming import ABSENT, IncomingRow, Picture, UnusableError, attempt
from curate.sources.confine import read_image
from curate.sources.images import decode_rgb
from engine.errors import DataError
from engine.files.clip_features import save_features
from engine.records import CaptionCandidate, CaptionPair, ImageCandidate, ImagePair, ImageTokens, Preference

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

    def preference(self, row: IncomingRow, fallback_id: str) -> tuple[Preference, list[str]]:
        """The preference of a row, and why a pair that the row has cannot be used.

        Raises:
            UnusableError: no pair can be used.
        """
        if row.record is not None and row.tokenizers in ("", self._tokenizers.name):
            return self._stored(row.record, row.features), []
        captions, images = attempt(partial(self._caption_pair, row)), attempt(partial(self._image_pair, row))
        real = ImageTokens(codes=()) if isinstance(captions, str) else captions[1]
        preference = Preference(
            id=row.id or fallback_id,
            caption=row.caption,
            image_codes=real.codes,
            captions=None if isinstance(captions, str) else captions[0],
            images=None if isinstance(images, str) else images,
            caption_reason=captions if isinstance(captions, str) else "",
            image_reason=images if isinstance(images, str) else "",
        )
        reasons = {"captions": preference.caption_reason, "images": preference.image_reason}
        problems = [f"{side}: {one}" for side, one in reasons.items() if one not in ("", ABSENT)]
        if preference.captions is None and preference.images is None:
            raise UnusableError("; ".join(problems) or "it has no pair")
        self._check(preference)
        return replace(preference, image_features=save_features(self._features, real)), problems

    def _stored(self, record: Preference, features: bytes) -> Preference:
        """A record as it is, with its features."""
        self._check(record)
        config = self._tokenizers.config
        if record.captions is None or not config.w_clip_vit:
            return record
        if len(features) != 4 * config.clip_tokens * config.clip_size:
            raise UnusableError("the CLIP features of the real image are missing")
        real = ImageTokens(codes=record.image_codes, features=features)
        return replace(record, image_features=save_features(self._features, real))

    def _check(self, preference: Preference) -> None:
        if misfit := self._tokenizers.misfit(preference):
            raise UnusableError(misfit)

    def _caption_pair(self, row: IncomingRow) -> tuple[CaptionPair, ImageTokens]:
        """The pair, and the real image that it is about."""
        pair = row.captions
        if isinstance(pair, str):
            raise UnusableError(pair)
        if row.image is None:
            raise UnusableError("an image is missing")
        win, lose = (
            CaptionCandidate(
                index=i, text=text, token_ids=self._tokenizers.token_ids(text), seed=0, score=pair.scores[i]
            )
            for i, text in enumerate((pair.win, pair.lose))
        )
        if not win.token_ids or not lose.token_ids:
            raise UnusableError("a caption has no tokens")
        if win.token_ids == lose.token_ids:
            raise UnusableError("winner and loser are the same tokens")
        real = self._tokenizers.image_tokens(self._open(row.image), True)
        return CaptionPair(win=win, lose=lose, win_round=self._round, lose_round=self._round), real

    def _image_pair(self, row: IncomingRow) -> ImagePair:
        pair = row.images
        if isinstance(pair, str):
            raise UnusableError(pair)
        if not row.caption:
            raise UnusableError("the caption is empty")
        codes = [self._tokenizers.image_tokens(self._open(one)).codes for one in (pair.win, pair.lose)]
        if codes[0] == codes[1]:
            raise UnusableError("winner and loser are the same image")
        win, lose = (
            ImageCandidate(index=i, codes=codes[i], seed=0, answers=(), score=pair.scores[i]) for i in (0, 1)
        )
        tie = win.score == lose.score
        return ImagePair(win=win, lose=lose, win_round=self._round, lose_round=self._round, tie=tie)

    def _open(self, picture: Picture) -> Image.Image:
        try:
            if isinstance(picture, bytes):
                return decode_rgb(picture, "the embedded image")
            return read_image(self._folders, picture)
        except DataError as error:
            raise UnusableError(str(error)) from error
