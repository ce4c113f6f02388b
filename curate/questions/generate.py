"""Questions for captions: the data set's own, a language model's, or both; only what passes is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from curate.config import EndpointConfig
from curate.questions.cache import CachedTextModel
from curate.questions.parsing import Style, parse
from curate.questions.prompting import reading_request, writing_request
from curate.questions.validation import UNREADABLE, answered, sifted
from curate.scoring.endpoint import Request
from engine.errors import ConfigError
from engine.records import Item, Question, Record
from engine.samplers.seeds import sample_seed

READING: Request = {"max_tokens": 48, "temperature": 0, "seed": 0}
"""How a reader answers."""


class WritingSettings(Record, forbid_unknown_fields=True):
    """How questions are written."""

    style: Style = "instruct"
    """instruct: any model that follows instructions; tifa: the input of TIFA's released generator."""
    batch: int = 32
    """Captions in flight together; a killed run asks at most this many again."""
    max_tokens: int = 768
    """The questions of a caption end here at the latest."""
    temperature: float = 0.0
    """0 is greedy; the reader always is."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"{self.batch} captions in flight: it must be at least 1")
        if self.max_tokens < 1:
            raise ConfigError(f"questions of {self.max_tokens} tokens: give at least 1")
        if self.temperature < 0:
            raise ConfigError(f"temperature {self.temperature}: it cannot be negative; 0 is greedy")


class QuestionModels(Record, forbid_unknown_fields=True):
    """Who writes questions, and who answers them from the captions; without a URL, nobody does."""

    writer: EndpointConfig = EndpointConfig()
    reader: EndpointConfig = EndpointConfig()


class QuestionReport(Record):
    """What became of the questions of some items."""

    items: int
    asked: int
    """Captions put to the writing model, equal ones once."""
    cached: int
    """Captions whose questions were written before."""
    read: int
    """Questions put to the reading model."""
    read_cached: int
    kept: int
    rejected: dict[str, int]
    """Reason -> questions."""
    without: int
    """Items left without questions."""


Progress = Callable[[int], None]


class QuestionMaker:
    """Makes the questions of items and counts what becomes of them."""

    def __init__(
        self,
        settings: WritingSettings,
        author: CachedTextModel | None = None,
        reader: CachedTextModel | None = None,
        own: bool = True,
    ) -> None:
        """`own` takes the questions that an item brings along, before those that `author` writes.

        Without an author there are only those; without a reader only the pure rules hold.
        """
        self._settings, self._author, self._reader, self._own = settings, author, reader, own
        self._items = self._kept = self._without = 0
        self._rejected: Counter[str] = Counter()

    def questions(
        self, items: Iterable[Item], progress: Progress
    ) -> Iterator[tuple[Item, tuple[Question, ...]]]:
        """Each item with its questions that pass, in order; of two that ask the same, the first."""
        for chunk in _chunks(items, self._settings.batch):
            found = [self._sifted(item, text) for item, text in zip(chunk, self._drafts(chunk), strict=True)]
            for item, kept in zip(chunk, self._answerable(chunk, found), strict=True):
                self._items += 1
                self._kept += len(kept)
                self._without += not kept
                yield item, kept
            progress(len(chunk))

    @property
    def report(self) -> QuestionReport:
        """Of the items that have come through so far."""
        asked = self._author.asked if self._author else 0
        return QuestionReport(
            items=self._items,
            asked=asked,
            cached=self._items - asked if self._author else 0,
            read=self._reader.asked if self._reader else 0,
            read_cached=self._reader.cached if self._reader else 0,
            kept=self._kept,
            rejected=dict(self._rejected.most_common()),
            without=self._without,
        )

    def _drafts(self, items: Sequence[Item]) -> Sequence[str | None]:
        """What the author writes about each caption."""
        if self._author is None:
            return [None] * len(items)
        return self._author.texts([self._writing(item.caption) for item in items])

    def _writing(self, caption: str) -> Request:
        settings = self._settings
        return {
            **writing_request(settings.style, caption),
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "seed": sample_seed(settings.seed, caption, "text", 0) if settings.temperature else 0,
        }

    def _sifted(self, item: Item, text: str | None) -> tuple[Question, ...]:
        """What passes the pure rules."""
        questions = list(item.questions) if self._own else []
        if text is not None:
            parsed = parse(self._settings.style, text)
            self._rejected.update(parsed.problems)
            questions += parsed.questions
        passed = sifted(questions)
        self._rejected.update(passed.rejected)
        return passed.kept

    def _answerable(
        self, items: Sequence[Item], questions: Sequence[tuple[Question, ...]]
    ) -> Sequence[tuple[Question, ...]]:
        """What the reader answers rightly from the captions alone; all, where there is no reader."""
        reader = self._reader
        if reader is None:
            return questions
        requests = [
            {**reading_request(item.caption, question), **READING}
            for item, asked in zip(items, questions, strict=True)
            for question in asked
        ]
        texts = iter(reader.texts(requests))
        kept = []
        for asked in questions:
            right = tuple(question for question in asked if answered(question, next(texts)))
            self._rejected.update({UNREADABLE: len(asked) - len(right)})
            kept.append(right)
        return kept


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
