"""Settings of a curation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from curate.bad_rows import parse_max_bad
from engine.errors import ConfigError
from engine.ranges import caption_problems, image_problems
from engine.records import AnswerSettings, CaptionSettings, ImageSettings, Record


def require_at_least(setting: str, config: Record, **least: float) -> None:
    """Raises ConfigError where a field that is set, to the user `setting.<field>`, is lower than it may."""
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and not value >= bound:
            raise ConfigError(f"{setting}.{name} is {value}; it must be at least {bound}")


def refuse(setting: str, problems: Sequence[str]) -> None:
    """Raises ConfigError where fields of a setting have problems (`engine.ranges`)."""
    if problems:
        raise ConfigError(f"{setting}.{problems[0]}")


class EndpointConfig(Record, forbid_unknown_fields=True):
    """A model behind an OpenAI-compatible endpoint, such as `vllm serve` opens."""

    setting: ClassVar[str] = "endpoint"
    """What messages call it."""

    url: str = ""
    """Base URL, such as http://127.0.0.1:8000/v1; empty is none."""
    model: str = ""
    """The model's name there."""
    api_key_env: str = ""
    """Environment variable that holds the key; empty is no key."""
    timeout: float = 60.0
    """Seconds a request."""
    retries: int = 4
    """Further tries after 408, 409, 429, 5xx, or no connection."""
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
        require_at_least(self.setting, self, retries=0, concurrency=1)


class JudgeConfig(EndpointConfig, forbid_unknown_fields=True):
    """A vision-language model that scores images instead of self-VQA."""

    setting: ClassVar[str] = "curate.judge"

    max_tokens: int = 16
    """Tokens of an answer; a model that reasons first needs more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self.setting, self, max_tokens=1)


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
    """Where Ray's actors run."""

    workers: int | None = None
    """Actors; unset, one a GPU, or 2 without any."""
    address: str = ""
    """Of a running cluster; empty starts one here. It is bound to loopback and ends with the command."""
    gpus: float | None = None
    """GPUs of an actor; unset, 1 where there are any."""
    cores: int = 0
    """Cores of an actor; 0 shares out this machine's."""

    def __post_init__(self) -> None:
        require_at_least("curate.ray", self, workers=1, gpus=0, cores=0)

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
    """Items to curate; 0 is all, or all that are selected."""
    fresh_prompts: bool = False
    """Every round takes the next `limit` items, not the same. So no pair mixes two rounds (Eq. 10). After the
    data set's end it begins again; without a limit all rounds have all items."""
    select: int = 0
    """Size of a random subset to curate; 0 is none. The run's seed decides it."""
    max_bad: str = ""
    """Bad rows that end a curation: a share, "1%", or a count, "20"; empty is any."""
    threshold: float = 0.6
    """Self-VQA accuracy that the winning image must exceed (paper, section 3.2)."""
    caption_margin: float = 0.0
    """Score difference that a caption pair must exceed."""
    image_margin: float = 0.0
    """Score difference that an image pair must exceed."""
    questions: str = ""
    """TIFA file of questions; empty asks the data set's own. `hermes questions` writes such files."""
    combine_questions: bool = False
    """Asks the data set's own questions too, before the file's."""
    rules: Literal["paper", "official"] = "paper"
    """Rules that make pairs: the paper's, or the official scripts' (`curate/rules.py`)."""
    tie_break: Literal["likelihood", "none"] = "likelihood"
    """What decides between images of equal score by the paper's rules. none: who was sampled first, and
    images that all score the same make no pair."""
    similarity: str = ""
    """Text model: minilm, mpnet, DIR, bert-cls:DIR or bert-mean:DIR; empty is mpnet where it is, else minilm.
    minilm is packaged; DIR is a folder of a sentence-transformers model, or of a plain BERT with a prefix. A
    run keeps what its first command found."""
    chunk: int = 16
    """Items in flight; a killed curation repeats at most this many."""
    caption: CaptionSettings = CaptionSettings()
    caption_plan: Literal["", "official"] = ""
    """official: the released script's ten settings, not n times `caption`."""
    image: ImageSettings = ImageSettings()
    answer: AnswerSettings = AnswerSettings()
    judge: JudgeConfig = JudgeConfig()
    workers: Literal["local", "ray"] = "local"
    """Who samples: this process, or Ray actors. The pairs are the same."""
    ray: RayConfig = RayConfig()

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ConfigError(f"curate.n is {self.n}; a pair needs at least 2 candidates")
        require_at_least("curate", self, limit=0, select=0, chunk=1, caption_margin=0, image_margin=0)
        parse_max_bad(self.max_bad)
        refuse("curate.caption", caption_problems(self.caption))
        refuse("curate.image", image_problems(self.image))
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"curate.threshold is {self.threshold}; it is an accuracy from 0 to 1")
        for name in ("caption_margin", "image_margin"):
            margin = getattr(self, name)
            if margin and self.rules == "official":
                raise ConfigError(f"curate.{name} is {margin}; the official rules have no margin")
        if self.combine_questions and not self.questions:
            raise ConfigError("curate.combine_questions needs a file to combine with: set curate.questions")


def pairing(config: CurateConfig) -> dict[str, object]:
    """What decides which of a curation's candidates become pairs."""
    names = ("rules", "tie_break", "threshold", "caption_margin", "image_margin")
    return {name: getattr(config, name) for name in names}


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
