"""Settings of a curation."""

from __future__ import annotations

import re
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from curate.bad_rows import parse_max_bad
from engine.errors import ConfigError
from engine.records import AnswerSettings, CaptionSettings, ImageSettings, Record


class EndpointConfig(Record, forbid_unknown_fields=True):
    """A model behind an OpenAI-compatible endpoint, such as `vllm serve` opens."""

    setting: ClassVar[str] = "endpoint"
    """What messages call it."""

    url: str = ""
    """Base of the endpoint, such as http://127.0.0.1:8000/v1; empty is none."""
    model: str = ""
    """Name under which the endpoint serves the model."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key; empty where the endpoint wants none."""
    timeout: float = 60.0
    """Seconds that a request may take."""
    retries: int = 4
    """Further tries after a status 408, 409, 429 or 5xx, or no connection."""
    concurrency: int = 8
    """Requests in flight."""

    def __post_init__(self) -> None:
        if not self.url:
            return
        _check_url(self.setting, self.url)
        if not self.model:
            raise ConfigError(
                f"{self.setting}.url is given without {self.setting}.model; name the model to ask"
            )
        if self.api_key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ConfigError(f"{self.setting}.api_key_env is no variable's name; give the name, not the key")
        if not 0 < self.timeout < float("inf"):
            raise ConfigError(f"{self.setting}.timeout is {self.timeout}; give seconds above 0")
        if self.retries < 0:
            raise ConfigError(f"{self.setting}.retries is {self.retries}; it cannot be negative")
        if self.concurrency < 1:
            raise ConfigError(f"{self.setting}.concurrency is {self.concurrency}; it must be at least 1")


class JudgeConfig(EndpointConfig, forbid_unknown_fields=True):
    """A vision-language model that scores images instead of self-VQA."""

    setting: ClassVar[str] = "curate.judge"

    max_tokens: int = 16
    """Tokens of an answer; a model that reasons first needs more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise ConfigError(f"{self.setting}.max_tokens is {self.max_tokens}; it must be at least 1")


def _check_url(setting: str, url: str) -> None:
    """What is refused is not repeated where it may hold a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{setting}.url cannot be read: {error}") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"{setting}.url holds a user, password, query or fragment, and is stored with the results; "
            f"give a plain base, and the key through {setting}.api_key_env"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{setting}.url is {url!r}; it starts with http:// or https:// and names a host")


class RayConfig(Record, forbid_unknown_fields=True):
    """Where and on what the actors run."""

    workers: int | None = None
    """Unset, one for each GPU of this machine, or 2 where it has none."""
    address: str = ""
    """Of a running cluster; empty starts one on this machine, bound to loopback, while the command runs."""
    gpus: float | None = None
    """GPUs of an actor; unset, 1 where this machine has any."""
    cores: int = 0
    """Cores of an actor; 0 shares out those of this machine."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"curate.ray.workers is {self.workers}; it must be at least 1")
        if (self.gpus or 0) < 0 or self.cores < 0:
            raise ConfigError(
                f"curate.ray.gpus is {self.gpus} and curate.ray.cores {self.cores}; neither can be negative"
            )

    def sized(self, gpus: int) -> tuple[int, float]:
        """(workers, GPUs of each) on a machine of so many GPUs.

        Raises:
            ConfigError: it has too few, and Ray would wait for more.
        """
        each = float(gpus > 0) if self.gpus is None else self.gpus
        workers = self.workers or gpus or 2
        if not self.address and workers * each > gpus:
            raise ConfigError(
                f"curate.ray: {workers} workers of {each:g} GPUs are more than the {gpus} of this machine; "
                "lower curate.ray.workers or curate.ray.gpus"
            )
        return workers, each


class CurateConfig(Record, forbid_unknown_fields=True):
    """How candidates are sampled, scored and paired."""

    n: int = 8
    """Candidates of each kind for each item."""
    limit: int = 200
    """Items to curate; 0 means all that the data set has, or all that are selected."""
    fresh_prompts: bool = False
    """Every round curates the next `limit` items of the data set instead of the same ones, so that no pair is
    mixed of two rounds (Eq. 10). Where the data set ends it begins again; without a limit all rounds have all
    items."""
    select: int = 0
    """Size of the random subset of the data set that is curated; the run's seed decides it. 0 means none."""
    max_bad: str = ""
    """Bad rows that a run may meet: a share, "1%", or a count, "20"; empty means any number."""
    threshold: float = 0.6
    """Self-VQA accuracy that the winning image must exceed (paper, section 3.2)."""
    caption_margin: float = 0.0
    """Score difference that a pair of captions must exceed; cosines and accuracies differ in scale."""
    image_margin: float = 0.0
    """Likewise of images."""
    questions: str = ""
    """TIFA file of questions to ask; empty asks the data set's own (`hermes questions` writes such files)."""
    combine_questions: bool = False
    """Asks the data set's own questions as well, before those of the file."""
    rules: Literal["paper", "official"] = "paper"
    """Which rules make pairs: the paper's, or those of the official scripts (`curate/rules.py`)."""
    tie_break: Literal["likelihood", "none"] = "likelihood"
    """What decides between images of equal score by the paper's rules; none: who was sampled first, and
    images that all score the same make no pair."""
    similarity: str = ""
    """What compares captions: minilm (packaged all-MiniLM-L6-v2), mpnet (all-mpnet-base-v2, where it is on
    this machine), a folder of a sentence-transformers model, bert-cls:DIR or bert-mean:DIR (a plain BERT).
    Empty is mpnet where it is, else minilm; a run keeps what its first command found."""
    chunk: int = 16
    """Items in flight together; a killed curation repeats at most this many."""
    caption: CaptionSettings = CaptionSettings()
    caption_plan: Literal["", "official"] = ""
    """official: the released script's ten settings instead of n times `caption`."""
    image: ImageSettings = ImageSettings()
    answer: AnswerSettings = AnswerSettings()
    judge: JudgeConfig = JudgeConfig()
    workers: Literal["local", "ray"] = "local"
    """Who samples: this process, or Ray actors, which give the same pairs."""
    ray: RayConfig = RayConfig()

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ConfigError(f"curate.n is {self.n}; a pair needs at least 2 candidates")
        if self.limit < 0:
            raise ConfigError(f"curate.limit is {self.limit}; give 0 for all items, or how many")
        if self.select < 0:
            raise ConfigError(f"curate.select is {self.select}; give 0 for no selection, or how many items")
        try:
            parse_max_bad(self.max_bad)
        except ValueError as error:
            raise ConfigError(
                f"curate.max_bad is {self.max_bad!r}; give a share such as 1%, a count such as 20, or nothing"
            ) from error
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"curate.threshold is {self.threshold}; it is an accuracy from 0 to 1")
        for name in ("caption_margin", "image_margin"):
            margin = getattr(self, name)
            if not margin >= 0:
                raise ConfigError(f"curate.{name} is {margin}; it cannot be negative")
            if margin and self.rules == "official":
                raise ConfigError(f"curate.{name} is {margin}; the official rules have no margin")
        if self.combine_questions and not self.questions:
            raise ConfigError("curate.combine_questions needs a file to combine with: set curate.questions")
        if self.chunk < 1:
            raise ConfigError(f"curate.chunk is {self.chunk}; it must be at least 1")


OFFICIAL_PLAN = (
    CaptionSettings(temperature=0.0, max_tokens=100),
    *(
        CaptionSettings(temperature=temperature, top_k=top_k, max_tokens=100)
        for top_k in (2, 3, 4)
        for temperature in (0.1, 0.7, 2.0)
    ),
)
"""The caption candidates of the official `inference_mmu_caption.py`: greedy, then a grid."""


def caption_plan(config: CurateConfig) -> tuple[CaptionSettings, ...]:
    """How each caption candidate of an item is sampled."""
    return OFFICIAL_PLAN if config.caption_plan == "official" else (config.caption,) * config.n
