"""The card of a pretrained model: what it scores, by kind and object count, and how that was measured."""

from __future__ import annotations

from pathlib import Path

import msgspec

from curate.evaluation.config import EvalConfig, HeldOut
from curate.evaluation.records import GapReport
from engine.files.atomic import write_file
from engine.records import ImageSettings, Record
from hermes_cli.settings import EngineSettings, RunSettings
from hermes_cli.view import encode_pretty, progress_bar, say

GUIDANCES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
TRIAL_ITEMS = 150
UND_RANGE = (0.80, 0.95)
GAP_RANGE = (0.10, 0.30)
LEAST_UND = 0.70
"""What understanding must reach on every kind of question and every object count."""


class GuidanceTrial(Record):
    """Generation on the validation split under one guidance weight."""

    guidance: float
    gen: float
    gen_se: float


class ModelCard(Record):
    """What is known of a pretrained model."""

    parameters: int
    tokenizer_parameters: int
    trials: tuple[GuidanceTrial, ...]
    """On the validation split; the default guidance comes from here."""
    evaluation: GapReport
    """On the evaluation split, with the best trial's guidance."""
    problems: tuple[str, ...]
    """Gates that the model does not pass; empty for a model that may ship."""


def gate(report: GapReport) -> tuple[str, ...]:
    """Everything for which a model may not ship."""
    problems = []
    if not UND_RANGE[0] <= report.und <= UND_RANGE[1]:
        problems.append(f"understanding {report.und:.3f} is outside {UND_RANGE}")
    if not GAP_RANGE[0] <= report.gap <= GAP_RANGE[1]:
        problems.append(f"gap {report.gap:.3f} is outside {GAP_RANGE}")
    for what, groups in (("kind", report.by_kind), ("objects", report.by_objects)):
        problems += [
            f"understanding of {what} {name} is {group.und:.3f}, below {LEAST_UND}"
            for name, group in groups.items()
            if group.und < LEAST_UND
        ]
    return tuple(problems)


def measure_card(checkpoint: Path, limit: int = 400) -> ModelCard:
    """Measures a checkpoint through the engine, choosing the guidance on the validation split."""
    from curate.evaluation.gap import measure_gap
    from curate.scoring.similarity import load_similarity
    from curate.sources import load_source
    from engine.checkpoints.weights import load_model
    from engine.tokenizers.image import load_image_tokenizer
    from hermes_cli.stages.evaluate import image_size, open_engine

    settings = RunSettings(model=str(checkpoint), engine=EngineSettings())
    similarity = load_similarity("minilm")
    size = image_size(settings.model)

    with open_engine(settings, checkpoint) as engine:

        def measure(split: HeldOut, count: int, guidance: float) -> GapReport:
            config = EvalConfig(limit=count, split=split, image=ImageSettings(guidance=guidance))
            source = load_source("shapes", split, count, config.seed, size)
            with progress_bar(f"{split}, guidance {guidance:g}", count) as advance:
                return measure_gap(engine, similarity, source, config, advance)

        trials = []
        for guidance in GUIDANCES:
            found = measure("validation", TRIAL_ITEMS, guidance)
            trials.append(GuidanceTrial(guidance=guidance, gen=found.gen, gen_se=found.gen_se))
            say(f"guidance {guidance:g}: und {found.und:.3f}, gen {found.gen:.3f}")
        best = max(trials, key=lambda trial: trial.gen)
        evaluation = measure("evaluation", limit, best.guidance)
    return ModelCard(
        parameters=sum(p.numel() for p in load_model(checkpoint).parameters()),
        tokenizer_parameters=sum(
            p.numel() for p in load_image_tokenizer(checkpoint / "image_tokenizer").parameters()
        ),
        trials=tuple(trials),
        evaluation=msgspec.structs.replace(evaluation, per_item=()),
        problems=gate(evaluation),
    )


def write_card(checkpoint: Path, card: ModelCard) -> None:
    """`card.json` for programs and `README.md` for people, beside the weights."""
    from hermes_cli.pages.render import templates

    write_file(checkpoint / "card.json", encode_pretty(card))
    text = templates().get_template("model_card.md.j2").render(card=card, one=card.evaluation)
    write_file(checkpoint / "README.md", text.encode())
