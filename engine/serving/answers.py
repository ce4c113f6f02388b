"""Answers about images: what `Engine.answer` does.

All choices of an image's questions are read in one pass, without decoding (`samplers.choices`). That decides
in likelihood mode. In text mode it gives the answers whose greedy text is a choice to its end; the rest is
decoded greedily, by the branched sampler or by vLLM (`serving.captions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from engine.records import Answer, AnswerSettings, ImageTokens, Question
from engine.samplers.choices import ChoiceLogprob
from engine.samplers.continuations import ImageQuestions, Limits, TokenizedQuestion
from engine.samplers.vqa_prompts import answer_from_choices, answer_room, format_question, tokenized
from engine.serving.captions import TextSampler

Texts = list[list[list[int]]]
"""Images -> questions -> greedy tokens."""


class Answers(TextSampler):
    """Answers questions about images."""

    def answer(
        self,
        images: Sequence[ImageTokens],
        questions: Sequence[Sequence[Question]],
        settings: AnswerSettings,
    ) -> list[list[Answer]]:
        """The answer to every question of every image.

        Raises:
            EngineError: a question without choices in likelihood mode, or a question that is too long.
        """
        answers: list[list[Answer]] = []
        for part, seen in self._prompts.windows(images):
            answers += self._answered(seen, questions[part], settings)
        return answers

    def _answered(
        self,
        images: Sequence[ImageTokens],
        questions: Sequence[Sequence[Question]],
        settings: AnswerSettings,
    ) -> list[list[Answer]]:
        encode, decode, eos = self._text.encode, self._text.decode, self._config.vocabulary.eos
        asked = [
            [tokenized(encode(format_question(self._config, one, settings)), one, encode) for one in row]
            for row in questions
        ]
        read = self._read_choices(images, asked, settings)
        found = [
            [answer_from_choices(*one, settings) for one in zip(*rows, strict=True)]
            for rows in zip(questions, read, strict=True)
        ]
        left = [
            [
                TokenizedQuestion(one.text, (), answer_room(self._config, one.choices))
                for one, answer in zip(*rows, strict=True)
                if answer is None
            ]
            for rows in zip(asked, found, strict=True)
        ]
        texts = (
            self._paged(images, left) if self._limits is None else self._branched(images, left, self._limits)
        )
        decoded = iter(decode([token for token in ids if token != eos]) for row in texts for ids in row)
        return [
            [
                answer or Answer(text=next(decoded), choice_logps=tuple(one.logp for one in logprobs))
                for answer, logprobs in zip(*rows, strict=True)
            ]
            for rows in zip(found, read, strict=True)
        ]

    def _read_choices(
        self,
        images: Sequence[ImageTokens],
        asked: Sequence[Sequence[TokenizedQuestion]],
        settings: AnswerSettings,
    ) -> list[list[list[ChoiceLogprob]]]:
        if settings.mode == "text" and not settings.drafts:
            return [[[] for _ in row] for row in asked]
        seen = [self._prompts.questions(*pair) for pair in zip(images, asked, strict=True)]
        for one in seen:
            self._count(one)
        found: list[list[list[ChoiceLogprob]]] = self._server.rpc(
            "reading choices failed", "hermes_read_choices", seen
        )
        return found

    def _paged(self, images: Sequence[ImageTokens], left: Sequence[Sequence[TokenizedQuestion]]) -> Texts:
        """The greedy tokens of every question of every image, each a request of its own."""
        requests = [
            request
            for image, questions in zip(images, left, strict=True)
            if questions
            for request in self._prompts.requests(
                image, [one.text for one in questions], max(one.room for one in questions)
            )
        ]
        params = [
            self._server.sampling(temperature=0.0, max_tokens=one.room)
            for questions in left
            for one in questions
        ]
        outputs = iter(self._server.generate(requests, params))
        return [[list(next(outputs).outputs[0].token_ids) for _ in questions] for questions in left]

    def _branched(
        self, images: Sequence[ImageTokens], left: Sequence[Sequence[TokenizedQuestion]], limits: Limits
    ) -> Texts:
        """The same, continued from one prefix an image; images with prefixes of one length go together."""
        answers: Texts = [[] for _ in images]
        asked = {
            number: self._prompts.questions(image, questions)
            for number, (image, questions) in enumerate(zip(images, left, strict=True))
            if questions
        }

        def length_of(number: int) -> int:
            return len(asked[number].prefix.ids)

        for length, same in groupby(sorted(asked, key=length_of), key=length_of):
            numbers = list(same)
            group = [asked[number] for number in numbers]
            most = max(len(one.questions) for one in group)
            longest = max(len(question.text) + question.room for one in group for question in one.questions)
            batch = limits.prefixes(self._config, length, most, longest)
            found = self._server.rpc("answering failed", "hermes_answer", group, batch)
            for number, one, texts in zip(numbers, group, found, strict=True):
                answers[number] = texts
                self._count(one)
        return answers

    def _count(self, asked: ImageQuestions) -> None:
        """Counts the prompts of an image's questions, of which all but one share the prefix."""
        shared, texts = len(asked.prefix.ids), [question.text for question in asked.questions]
        if texts:
            own = sum(map(len, texts))
            self._server.meter.prompts(len(texts) * shared + own, (len(texts) - 1) * shared)
