"""Answers about images: read from the choices in one pass, decoded where that does not settle them."""

from __future__ import annotations

from collections.abc import Sequence

from engine.asking import ANSWER_TOKENS, ask, settled, wording
from engine.models.showo_config import ShowoConfig
from engine.records import Answer, AnswerSettings, ImageTokens, Question
from engine.samplers.choice_rows import Ask
from engine.samplers.choices import Chosen
from engine.tokenizers.text import TextTokenizer
from engine.vllm_prompts import Prompts, requests
from engine.vllm_server import Server

Read = list[list[list[Chosen]]]
"""Images -> questions -> choices."""


def answers(
    server: Server,
    prompts: Prompts,
    text: TextTokenizer,
    config: ShowoConfig,
    images: Sequence[ImageTokens],
    questions: Sequence[Sequence[Question]],
    settings: AnswerSettings,
) -> list[list[Answer]]:
    """The answer to every question of every image; the images are what `Prompts.seen` gives."""
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
        [one.text for one, answer in zip(*rows, strict=True) if answer is None]
        for rows in zip(asked, found, strict=True)
    ]
    eos = config.vocabulary.eos
    greedy = [server.sampling(temperature=0.0, max_tokens=ANSWER_TOKENS)] * sum(map(len, left))
    decoded = iter(
        text.decode([token for token in output.outputs[0].token_ids if token != eos])
        for output in server.generate(requests(prompts, images, left, ANSWER_TOKENS), greedy)
    )
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
    seen = [prompts.choices(*pair) for pair in zip(images, asked, strict=True)]
    found: Read = server.rpc("reading choices failed", "hermes_choose", seen)
    return found
