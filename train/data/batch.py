"""Preferences as tensors: one row a candidate, all rows of a step in one forward pass.

Legend: R rows, T tokens, P preferences of a step, C of them with captions, I with images, S masks a step,
N CLIP features of an image, F their width.

A label stands at the position whose hidden state predicts it: the next token in caption rows, the masked
code itself in image rows. Prompt, text, soi and eoi carry no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checkpoints.weights import load_config
from engine.errors import DataError
from engine.files.clip_features import FEATURES, check_features, open_features
from engine.models.masks import feature_mask, mmu_mask, t2i_mask
from engine.models.showo_config import ShowoConfig
from engine.models.showo_vocabulary import Vocabulary
from engine.records import CaptionCandidate, Preference
from engine.tokenizers.text import TextTokenizer
from train.data.image_mask import ImageMask

IGNORE = -100
Which = Literal["win", "lose"]
WHICH: tuple[Which, Which] = ("win", "lose")


class Row(NamedTuple):
    """One sequence before padding."""

    ids: list[int]
    labels: list[int]
    first: int
    """Position of the first id: text-to-image rows start where their left padding would end."""
    t2i: bool
    """True for text to image, False for understanding."""
    features: NDArray[np.float32] | None = None
    """CLIP features of an understanding row, [N, F], where the model sees those."""


class Rows(NamedTuple):
    """Sequences padded on the right to one length; padding is seen by nobody."""

    ids_RT: Tensor
    mask: Tensor
    """[R, 1, T, T] boolean, True = may attend."""
    positions_RT: Tensor
    labels_RT: Tensor
    """IGNORE where nothing is predicted."""
    places_N: Tensor | None = None
    """Places of the labels in the flat [R * T], ascending. `Layout.stack` finds them on the host: a device
    that looks for them has to be waited for."""
    features: Tensor | None = None
    """[understanding rows, N, F] in the order of the rows; None where the model sees codes."""
    seeing: Tensor | None = None
    """Numbers of the understanding rows, where there are features."""

    def to(self, device: torch.device | str) -> Rows:
        """The same rows on another device; nothing waits for what the device is at."""
        moved = (None if one is None else one.to(device, non_blocking=True) for one in self)
        return Rows(*moved)  # type: ignore[arg-type]


def label_places(labels_RT: Tensor) -> Tensor:
    """`places_N` of `Rows`."""
    return (labels_RT.flatten() != IGNORE).nonzero()[:, 0]


class Layout:
    """How a checkpoint wants its sequences: exactly as its sampler builds them."""

    def __init__(self, config: ShowoConfig, text: TextTokenizer, features: Path | None = None) -> None:
        """`features` is the folder of `engine.files.clip_features`, which a model that sees CLIP features
        needs."""
        self.config = config
        self.words: Vocabulary = config.vocabulary
        self._text = text
        self._features = features or Path(FEATURES)
        self._caption_prompt = text.encode(config.caption_prompt)

    @classmethod
    def load(cls, checkpoint: Path, features: Path | None = None) -> Layout:
        """The layout of a checkpoint folder.

        Raises:
            CheckpointError: config.json or tokenizer.json is missing or broken.
        """
        return cls(load_config(checkpoint), TextTokenizer.load(checkpoint / "tokenizer.json"), features)

    def encode(self, text: str) -> list[int]:
        """Text as ids, without specials."""
        return self._text.encode(text)

    def caption_row(
        self, codes: Sequence[int], token_ids: Sequence[int], features: str = "", ended: bool = True
    ) -> Row:
        """`[mmu][soi] codes [eoi][bos] prompt caption [eos]`, labels on the caption and its eos, which one
        that was cut does not have.

        `features` names the file of the image's CLIP features; a model that understands those has
        `[mmu] system [soi] features [eoi] prompt caption [eos]`.
        """
        seen = self._read_features(features, codes) if self.config.w_clip_vit else None
        if seen is None:
            prompt = self.words.mmu_prompt(codes, self._caption_prompt)
        else:
            prompt = self.words.feature_prompt(self.config.system_ids, len(seen), self._caption_prompt)
        caption = [*token_ids]
        if ended and (not caption or caption[-1] != self.words.eos):
            caption.append(self.words.eos)
        labels = [IGNORE] * (len(prompt) - 1) + caption + [IGNORE]
        return Row(prompt + caption, labels, first=0, t2i=False, features=seen)

    def image_row(self, caption: str, codes: Sequence[int], masked: NDArray[np.bool_]) -> Row:
        """`[t2i][bos] caption [eos][soi] codes [eoi]`, labels on the masked codes alone.

        `masked` [tokens] is True where the mask token replaces a code. The row starts at the position where
        its text stands after left padding to the longest text; the padding itself is left out. An empty
        caption gives the prompt that the sampler's guidance takes for unconditional: no text ids at all.
        """
        ids = self.encode(caption) if caption else []
        text = self.words.t2i_text(ids, self.config.max_text_len)
        seen = np.where(masked, -1, codes)
        chosen = np.where(masked, np.asarray(codes) + self.words.code_offset, IGNORE)
        labels = [IGNORE] * (len(text) + 1) + chosen.tolist() + [IGNORE]
        first = self.words.t2i_pad(text, self.config.max_text_len)
        return Row(text + self.words.image(seen.tolist()), labels, first, t2i=True)

    def caption_of(self, preference: Preference, which: Which | None) -> Row:
        """`caption_row` of the winner, the loser or (None) the item's own caption, given its image."""
        codes, features = preference.image_codes, preference.image_features
        if which is None:
            return self.caption_row(codes, self.encode(preference.caption), features)
        side: CaptionCandidate = getattr(preference.captions, which)
        return self.caption_row(codes, side.token_ids, features, side.ended)

    def image_of(self, preference: Preference, which: Which | None, mask: ImageMask) -> Row:
        """`image_row` of the winner, the loser or (None) the item's own image, given its caption unless the
        mask drops it."""
        codes = preference.image_codes if which is None else getattr(preference.images, which).codes
        return self.image_row(preference.caption if mask.text else "", codes, mask.masked)

    def _read_features(self, name: str, codes: Sequence[int]) -> NDArray[np.float32]:
        return open_features(self._features, name, codes, self.config.clip_tokens, self.config.clip_size)

    def stack(self, rows: Sequence[Row]) -> Rows:
        """Rows of any kinds and lengths as one padded batch."""
        width = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), width), self.words.pad)
        labels = torch.full((len(rows), width), IGNORE)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            labels[i, : len(row.labels)] = torch.tensor(row.labels)
        t2i = torch.tensor([row.t2i for row in rows])
        config, features, seeing = self.config, None, None
        understood = mmu_mask(ids, self.words.eoi)
        if config.w_clip_vit:
            understood = feature_mask(width, config.image_start, config.clip_tokens)
            seen = [torch.from_numpy(np.array(row.features)) for row in rows if not row.t2i]
            none = torch.zeros(0, config.clip_tokens, config.clip_size)
            features = torch.stack(seen) if seen else none
            seeing = (~t2i).nonzero()[:, 0]
        mask = torch.where(
            t2i[:, None, None, None],
            t2i_mask(ids, self.words.pad, self.words.soi, self.words.eoi),
            understood,
        )
        positions = torch.tensor([row.first for row in rows])[:, None] + torch.arange(width)
        return Rows(ids, mask, positions, labels, label_places(labels), features, seeing)

    def check(self, preferences: Sequence[Preference], real: bool = False) -> None:
        """Refuses preferences that were sampled from a model of another shape.

        `real` tells that the loss will read the real images, also where there is no caption pair. Of one
        without codes, as imported pairs may be, it reads nothing.

        Raises:
            DataError: names the first preference whose codes or caption ids do not fit the checkpoint, or the
                file of features that is missing.
        """
        tokens, codebook, ids = self.config.num_image_tokens, self.words.codebook_size, self.words.size
        for one in preferences:
            shown = bool(one.captions) or (real and bool(one.image_codes))
            images = [one.image_codes] if shown else []
            images += [one.images.win.codes, one.images.lose.codes] if one.images else []
            for codes in images:
                if len(codes) != tokens or not all(0 <= code < codebook for code in codes):
                    raise DataError(
                        f"preference {one.id}: an image of {len(codes)} codes up to {max(codes, default=-1)} "
                        f"does not fit this checkpoint ({tokens} codes below {codebook}): curate again"
                    )
            if shown and self.config.w_clip_vit:
                sizes = self.config.clip_tokens, self.config.clip_size
                check_features(self._features, one.image_features, *sizes)
            captions = [one.captions.win, one.captions.lose] if one.captions else []
            if any(not 0 <= token < ids for caption in captions for token in caption.token_ids):
                raise DataError(
                    f"preference {one.id}: a caption holds ids beyond this checkpoint's {ids}; "
                    "curate with it first"
                )


class PairRows(NamedTuple):
    """A pass's rows, and which preference each of them belongs to."""

    rows: Rows
    """Order: C caption winners, C caption losers, I x S image winners, I x S image losers; then, where they
    are wanted, H real captions and H x M real images."""
    size: int
    """P."""
    captions: list[int]
    """Places 0..P-1 of the preferences with captions, [C]."""
    images: list[int]
    """Places of the preferences with images, [I]."""
    masks: int
    """S."""
    homologous: Sequence[int] = ()
    """Places of the preferences that have a real image and its caption, [H]."""
    real_captions: bool = False
    real_masks: int = 0
    """M."""

    @property
    def paired(self) -> int:
        """Rows of pairs, which a reference scores; what follows are real captions and images."""
        return 2 * (len(self.captions) + len(self.images) * self.masks)

    def split(self, values_R: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values of each paired row as caption winners and losers [P], image winners and losers [P].

        Images are averaged over their masks; a pair that a preference lacks is 0.
        """
        captions, images = len(self.captions), len(self.images) * self.masks
        win_C, lose_C, win_IS, lose_IS = values_R[: self.paired].split([captions, captions, images, images])
        return (
            self._place(win_C, self.captions),
            self._place(lose_C, self.captions),
            self._place(win_IS.view(-1, self.masks).mean(1), self.images),
            self._place(lose_IS.view(-1, self.masks).mean(1), self.images),
        )

    def real(self, values_R: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Values of the real captions and of the real images, [P]; the latter averaged over their masks.

        Those of preferences that are not homologous are 0.
        """
        rest_R = values_R[self.paired :]
        captions_P = images_P = None
        if self.real_captions:
            captions_H, rest_R = rest_R.tensor_split([len(self.homologous)])
            captions_P = self._place(captions_H, self.homologous)
        if self.real_masks:
            images_P = self._place(rest_R.view(-1, self.real_masks).mean(1), self.homologous)
        return captions_P, images_P

    def real_losses(self, logp_R: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Negative log-likelihood per label of the real captions and images, [P]; None where not wanted."""
        labels_R = (self.rows.labels_RT != IGNORE).sum(1).to(logp_R.dtype)
        captions, images = (
            None if logp_P is None or labels_P is None else -logp_P / labels_P.clamp(min=1)
            for logp_P, labels_P in zip(self.real(logp_R), self.real(labels_R), strict=True)
        )
        return captions, images

    def has(self, places: Sequence[int]) -> Tensor:
        """bool [P], True at the given places."""
        found = torch.zeros(self.size, dtype=torch.bool)
        found[list(places)] = True
        return found

    def _place(self, values: Tensor, places: Sequence[int]) -> Tensor:
        index = torch.tensor(places, dtype=torch.long, device=values.device)
        return values.new_zeros(self.size).index_copy(0, index, values)


def is_homologous(preference: Preference) -> bool:
    """Whether the real image and its caption are both there, as they may not be of imported pairs."""
    return bool(preference.image_codes and preference.caption)


def pair_rows(
    layout: Layout,
    preferences: Sequence[Preference],
    masks: Sequence[Sequence[ImageMask]],
    captions: bool = True,
    images: bool = True,
    real_captions: bool = False,
    real_images: Sequence[Sequence[ImageMask]] = (),
) -> PairRows:
    """All rows of a pass.

    `masks[p]` are the S masks of preference p; one that has none is here without its pairs. `captions` and
    `images` tell which modalities the objective uses; a preference that lacks one contributes the other.
    `real_captions` adds the caption of every homologous preference, `real_images` its image, under the masks
    given for it.
    """
    with_captions = [i for i, one in enumerate(preferences) if captions and one.captions and masks[i]]
    with_images = [i for i, one in enumerate(preferences) if images and one.images and masks[i]]
    homologous = [i for i, one in enumerate(preferences) if is_homologous(one)]
    rows = [layout.caption_of(preferences[i], which) for which in WHICH for i in with_captions]
    # Winner and loser under the same masks: an image's log-prob depends on which codes are masked.
    rows += [
        layout.image_of(preferences[i], which, mask)
        for which in WHICH
        for i in with_images
        for mask in masks[i]
    ]
    if real_captions:
        rows += [layout.caption_of(preferences[i], None) for i in homologous]
    if real_images:
        rows += [layout.image_of(preferences[i], None, mask) for i in homologous for mask in real_images[i]]
    return PairRows(
        rows=layout.stack(rows),
        size=len(preferences),
        captions=with_captions,
        images=with_images,
        masks=max(1, *map(len, masks)),
        homologous=homologous,
        real_captions=real_captions,
        real_masks=max(map(len, real_images), default=0),
    )
