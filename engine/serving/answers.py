"""Answers about images: read from the choices in one pass, decoded where that does not settle them.

A decoded answer is greedy: a branch of its image's stem, or a request to vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from engine.models.showo_config import ShowoConfig
from engine.records import Answer, AnswerSettings, ImageTokens, Question
from engine.samplers.batch_size import Limits
from engine.samplers.branches import Asked, asked_behind
from engine.samplers.choice_rows import Ask
from engine.samplers.choices import Chosen
from engine.samplers.vqa_prompts import ANSWER_TOKENS, ask, settled, wording
from engine.serving.captions import continued
from engine.serving.prompts import Prompts
from engine.serving.server import Server
from engine.tokenizers.text import TextTokenizer

Read = list[list[list[Chosen]]]
"""Images -> questions -> choices."""


def answers(
    server: Server,
    prompts: Prompts,
    text: TextTokenizer,
    config: ShowoConfig,
    limits: Limits | None,
    images: Sequence[ImageTokens],
    questions: Sequence[Sequence[Question]],
    settings: AnswerSettings,
) -> list[list[Answer]]:
    """The answer to every question of every image; the images are what `Prompts.seen` gives.

    `limits` are as in `captions`.
    """
    asked = [
        [ask(text.encode(wording(config, one, settings)), one, text.encode) for one in row]
        for row in questions
    ]
    read = _read(server, prompts, images, asked, settings)
    found = [
        [
            settled(question, one.choices, chosen, settings, text.decode)
            for question, one, chosen in zip(*rows, strict=True)
        ]
        for rows in zip(questions, asked, read, strict=True)
    ]
    left = [
        [Ask(one.text, ()) for one, answer in zip(*rows, strict=True) if answer is None]
        for rows in zip(asked, found, strict=True)
    ]
    eos = config.vocabulary.eos
    if limits is None:
        rows = _paged(server, prompts, images, left)
    else:
        rows = _branched(server, prompts, config, limits, images, left)
    decoded = iter(text.decode([token for token in ids if token != eos]) for row in rows for ids in row)
    return [
        [
            answer or Answer(text=next(decoded), choice_logps=tuple(one.logp for one in chosen))
            for answer, chosen in zip(*rows, strict=True)
        ]
        for rows in zip(found, read, strict=True)
    ]


def _read(
    server: Server,
    prompts: Prompts,
    images: Sequence[ImageTokens],
    asked: Sequence[Sequence[Ask]],
    settings: AnswerSettings,
) -> Read:
    if settings.mode == "text" and not settings.drafts:
        return [[[] for _ in row] for row in asked]
    seen = [prompts.asked(*pair) for pair in zip(images, asked, strict=True)]
    for one in seen:
        if one.asks:
            _count(server, asked_behind(one))
    found: Read = server.rpc("reading choices failed", "hermes_choose", seen)
    return found


def _paged(
    server: Server, prompts: Prompts, images: Sequence[ImageTokens], left: Sequence[Sequence[Ask]]
) -> list[list[list[int]]]:
    """The greedy tokens of every text of every image, each a request of its own."""
    asked = [(image, [ask.text for ask in asks]) for image, asks in zip(images, left, strict=True) if asks]
    params = server.sampling(temperature=0.0, max_tokens=ANSWER_TOKENS)
    outputs = iter(
        continued(
            server,
            prompts,
            [image for image, _ in asked],
            [texts for _, texts in asked],
            ANSWER_TOKENS,
            [params] * sum(map(len, left)),
        )
    )
    return [[list(next(outputs).outputs[0].token_ids) for _ in asks] for asks in left]


def _branched(
    server: Server,
    prompts: Prompts,
    config: ShowoConfig,
    limits: Limits,
    images: Sequence[ImageTokens],
    left: Sequence[Sequence[Ask]],
) -> list[list[list[int]]]:
    """The greedy tokens of every text of every image, grown from one stem an image."""
    found: list[list[list[int]]] = [[] for _ in images]
    asked = {
        number: asked_behind(prompts.asked(image, asks, ANSWER_TOKENS))
        for number, (image, asks) in enumerate(zip(images, left, strict=True))
        if asks
    }
    in_order = sorted(asked, key=lambda number: len(asked[number].stem.ids))
    for length, numbers in groupby(in_order, key=lambda number: len(asked[number].stem.ids)):
        group = list(numbers)
        texts = max(len(asked[number].texts) for number in group)
        longest = max(len(text) for number in group for text in asked[number].texts) + ANSWER_TOKENS
        batch = limits.stems(config, length, texts, longest)
        replies = server.rpc(
            "answering failed", "hermes_reply", [asked[number] for number in group], ANSWER_TOKENS, batch
        )
        for number, reply in zip(group, replies, strict=True):
            found[number] = reply
            _count(server, asked[number])
    return found


def _count(server: Server, asked: Asked) -> None:
    stem, texts = len(asked.stem.ids), asked.texts
    server.meter.prompts(len(texts) * stem + sum(map(len, texts)), max(0, len(texts) - 1) * stem)
