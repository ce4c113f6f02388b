"""Every record that crosses a package boundary, as frozen structs.

Legend: N candidates of one item, T image tokens. Image token ids are codebook codes (0-based), never
vocabulary ids: the offset belongs to the model, not to the data.
"""

from __future__ import annotations

import hashlib
from typing import Literal, dataclass_transform

import msgspec


# Type checkers do not see by themselves that what inherits from a frozen struct is frozen.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True):
    """Base of all records: immutable."""


class Question(Record):
    """One TIFA-style question with its closed list of choices (Hu et al., 2023)."""

    question: str
    choices: tuple[str, ...]
    answer: str
    kind: str
    """What is asked: existence, shape, color, count or relation in the embedded world, else TIFA's type."""
    element: str = ""
    """The word of the caption that is asked about, as TIFA names it; empty where nobody said."""


class Item(Record):
    """A homologous pair: an image, the caption that says the same, and questions about both."""

    id: str
    caption: str
    questions: tuple[Question, ...]
    category: str = "other"
    """GenEval category, or the data set's own."""
    objects: int = 0
    """Number of objects in the image, 0 where unknown."""
    image: str = ""
    """Where the image lies in the data set: a path, or its source's own name; empty where it is rendered."""
    prompt: str = ""
    """What the image was first made from, where the data set says so; nothing is conditioned on it."""


class CaptionCandidate(Record, omit_defaults=True):
    """One sampled caption and its similarity to the homologous caption."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    seed: int
    score: float
    ended: bool = True
    """As in `SampledCaption`; one that was cut is trained on without an end."""


class ImageCandidate(Record, omit_defaults=True):
    """One generated image: the sampled codes themselves, and what was answered about it."""

    index: int
    codes: tuple[int, ...]
    seed: int
    answers: tuple[str, ...]
    score: float
    """Share of the item's questions that the model itself, or a judge, answered rightly (TIFA score)."""
    likelihood: float | None = None
    """Mean over the questions of the right choice's log-prob among the choices, as the model that sampled the
    image gave it; None where choices were not read."""


class CaptionPair(Record):
    """y_w and y_l given x. `round` tells from which round each side was sampled."""

    win: CaptionCandidate
    lose: CaptionCandidate
    win_round: int
    lose_round: int


class ImagePair(Record, omit_defaults=True):
    """x_w and x_l given y."""

    win: ImageCandidate
    lose: ImageCandidate
    win_round: int
    lose_round: int
    tie: bool = False
    """Whether both sides have the same score: by the paper's rules their likelihoods alone differ."""


class Provenance(Record):
    """Where an item's pairs come from: with the candidates' seeds, all that is needed to sample them again.

    A side of a pair that was sampled in an earlier round has its provenance there.
    """

    model: str
    """Fingerprint of the weights that sampled."""
    precision: str
    origin: str
    """Digest of `origin.json`, which has the settings of sampling."""
    seed: int
    questions: tuple[Question, ...]
    caption_scores: tuple[float, ...]
    caption_seeds: tuple[int, ...]
    image_scores: tuple[float, ...]
    image_likelihoods: tuple[float | None, ...]
    image_seeds: tuple[int, ...]
    image_answers: tuple[tuple[str, ...], ...]
    """Of every candidate to every question."""


class Preference(Record):
    """What curation leaves of one item: a pair for each side, or the reason why there is none."""

    id: str
    caption: str
    image_codes: tuple[int, ...]
    """Codes of the real image x."""
    captions: CaptionPair | None
    images: ImagePair | None
    caption_reason: str = ""
    image_reason: str = ""
    image_features: str = ""
    """Name of the file that holds the CLIP features of x, where understanding needs them."""
    provenance: Provenance | None = None


class Candidates(Record):
    """All candidates of one item in one round, with everything needed to sample them again."""

    id: str
    round: int
    caption: str
    category: str
    objects: int
    questions: tuple[Question, ...]
    image_codes: tuple[int, ...]
    captions: tuple[CaptionCandidate, ...]
    images: tuple[ImageCandidate, ...]
    image_features: str = ""


class ImageTokens(Record):
    """An image as codes, with the fingerprint that salts the engine's prefix cache."""

    codes: tuple[int, ...]
    features: bytes = b""
    """What CLIP sees of its pixels, where understanding needs it: little-endian float32, patch by patch."""

    def salt(self) -> str:
        """Digest of the whole image, for vLLM's prefix cache."""
        # Inside a bidirectional prefix a block depends on later tokens too: two images that share their first
        # tokens must not share blocks.
        whole = msgspec.msgpack.encode((self.codes, self.features))
        return hashlib.blake2b(whole, digest_size=12).hexdigest()


class ImageSettings(Record):
    """Mask-predict sampling (Show-o's `t2i_generate`)."""

    steps: int = 18
    """Forward passes in which all positions become known."""
    guidance: float = 1.0
    """w in (1 + w) * conditional - w * unconditional."""
    temperature: float = 8.0
    """Start of the confidence noise. It compounds by (1 - t/T) each step, as in the official code."""
    schedule: str = "cosine"
    """Share that stays masked: cosine, linear, powE (pow2), or sigmoid."""


class CaptionSettings(Record, forbid_unknown_fields=True):
    """Autoregressive sampling of one caption; a caption ends with eos, or at `max_tokens`."""

    temperature: float = 1.0
    """0 is greedy. So is less than 1e-5."""
    top_k: int = 0
    """0 is all."""
    top_p: float = 1.0
    """Probability of the likeliest tokens to sample from; 1 is all."""
    repetition_penalty: float = 1.0
    """Divides logits of earlier tokens (multiplies negative ones)."""
    max_tokens: int = 32
    """Length at which a caption is cut. A new run takes that of the model's config.json, which is 100 where
    `hermes import` wrote it."""


class AnswerSettings(Record, forbid_unknown_fields=True):
    """How questions about an image are answered."""

    mode: Literal["text", "likelihood"] = "text"
    """text: greedy free text (the official script's); likelihood: the likeliest choice."""
    name_choices: bool = True
    """Names the choices in the question, where the model has a prompt for that."""
    drafts: bool = True
    """In text mode, decodes only where no choice is the greedy text."""


class Answer(Record):
    """The answer to one question."""

    text: str
    choice_logps: tuple[float, ...] = ()
    """Log-prob of every choice and its end after the question; empty where they were not read."""
    choice: int | None = None
    """Which choice it is, where that was decided token by token; None where the text is yet to be matched."""


class SampledCaption(Record):
    """A caption as the engine returns it."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    seed: int
    ended: bool = True
    """Whether it ended by itself; else it was cut at `max_tokens`."""


class SampledImage(ImageTokens, kw_only=True):
    """An image as the engine returns it: to be looked at by its codes, it never goes through pixels."""

    seed: int
