"""Image sampling in the form for GPUs, run on a CPU: codes, independence of the batch, memory, graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tape import Taping
from torch import Tensor

from engine.errors import EngineError
from engine.models.showo import Showo
from engine.models.showo_config import ShowoConfig
from engine.records import ImageSettings
from engine.samplers.batch_size import launches_dominate, planned_gpu_batch
from engine.samplers.mask_predict import SamplerCache, generate
from engine.samplers.replay import Replayed

TEXTS: list[list[int]] = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11, 12, 13], [4], []]
SEEDS = [
    [11, 12, 13, 14, 15],
    [16, 17, 18, 19, 20],
    [21, 22, 23, 24, 25, 26, 27],
    [28, 29, 30, 31, 32],
    [7] * 5,
]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "pow2", "sigmoid"])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_static_batches_generate_the_codes_of_the_form_for_cpus(
    model: Showo, guidance: float, schedule: str, batch: int
) -> None:
    settings = ImageSettings(steps=7, guidance=guidance, schedule=schedule)
    wanted = generate(model, TEXTS, SEEDS, settings, 8, static=False)
    assert generate(model, TEXTS, SEEDS, settings, batch, static=True) == wanted


def test_more_prompts_than_are_held_at_a_time_are_generated_in_their_order(model: Showo) -> None:
    settings = ImageSettings(steps=2)
    texts = [[1 + prompt % 7] * (1 + prompt % 4) for prompt in range(37)]
    seeds = [[2 * prompt, 2 * prompt + 1] for prompt in range(37)]
    wanted = generate(model, texts, seeds, settings, 8, static=False)
    assert [generate(model, texts, seeds, settings, batch, static=True) for batch in (2, 6)] == [wanted] * 2


class Watched:
    """A model that remembers what it embedded, and has memory for so many images."""

    def __init__(self, model: Showo, room: int = 1000) -> None:
        self._model, self._room = model, room
        self.shapes: set[tuple[int, ...]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def embed(self, ids: Tensor) -> Tensor:
        self.shapes.add(tuple(ids.shape))
        if len(ids) > self._room and ids.shape[1] == self._model.config.num_image_tokens + 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self._model.embed(ids)


@pytest.mark.parametrize("batch", [3, 10])
def test_no_pass_has_another_shape_than_the_others_of_its_kind(model: Showo, batch: int) -> None:
    watched = Watched(model)
    for prompts in (1, 4):
        generate(
            watched,
            TEXTS[:prompts],
            [row[:5] for row in SEEDS[:prompts]],
            ImageSettings(steps=2),
            batch,
            static=True,
        )
    rows = model.config.num_image_tokens + 2
    assert {shape for shape in watched.shapes if shape[1] == rows} == {(batch, rows)}
    # Of the texts that are held together, and of no text.
    assert len(watched.shapes) == 3


@pytest.mark.parametrize("static", [False, True])
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(
    model: Showo, static: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, kept = ImageSettings(steps=3), SamplerCache()
    wanted = generate(model, TEXTS, SEEDS, settings, 16, static=static)
    assert generate(Watched(model, 5), TEXTS, SEEDS, settings, 16, kept, static) == wanted
    assert capsys.readouterr().err.splitlines() == [
        "generating 16 images at a time does not fit into the GPU's memory; going on with 8",
        "generating 8 images at a time does not fit into the GPU's memory; going on with 4",
    ]
    assert generate(Watched(model, 5), TEXTS, SEEDS, settings, 16, kept, static) == wanted
    assert capsys.readouterr().err == ""


def test_memory_that_runs_out_in_the_middle_costs_no_image_generated_before(model: Showo) -> None:
    settings = ImageSettings(steps=3)
    wanted = generate(model, TEXTS, SEEDS, settings, 10, static=True)
    watched, generated = Watched(model), 0

    class Filling(Watched):
        def embed(self, ids: Tensor) -> Tensor:
            nonlocal generated
            generated += len(ids)
            if generated > 60:
                self._room = 5
            return super().embed(ids)

    watched = Filling(model)
    assert generate(watched, TEXTS, SEEDS, settings, 10, static=True) == wanted
    rows = model.config.num_image_tokens + 2
    assert {(10, rows), (5, rows)} <= watched.shapes


def test_one_image_that_does_not_fit_is_one_clear_error(model: Showo) -> None:
    with pytest.raises(
        EngineError, match="generating 1 images at a time does not fit into the GPU's memory; lower"
    ):
        generate(Watched(model, 0), TEXTS, SEEDS, ImageSettings(steps=3), 4)


def test_processes_that_share_the_layers_do_not_halve_their_batches_apart(model: Showo) -> None:
    with pytest.raises(EngineError, match="generating 4 images"):
        generate(Watched(model, 2), TEXTS, SEEDS, ImageSettings(steps=3), 4, SamplerCache(halves=False))


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_a_captured_step_is_replayed_for_other_texts_seeds_and_temperatures(
    model: Showo, guidance: float
) -> None:
    taping = Taping()
    kept = SamplerCache(taping)
    for steps, temperature in ((5, 8.0), (3, 1.0)):
        settings = ImageSettings(steps=steps, guidance=guidance, temperature=temperature)
        wanted = generate(model, TEXTS, SEEDS, settings, 8, static=False)
        for prompts in (slice(0, 5), slice(1, 3)):
            found = generate(model, TEXTS[prompts], SEEDS[prompts], settings, 8, kept, static=True)
            assert found == wanted[prompts]
    assert taping.captures == 1


def test_another_batch_or_guidance_is_captured_anew(model: Showo) -> None:
    taping = Taping()
    kept = SamplerCache(taping)
    for batch, guidance in ((8, 0.0), (8, 2.0), (4, 2.0)):
        settings = ImageSettings(steps=2, guidance=guidance)
        wanted = generate(model, TEXTS, SEEDS, settings, 8, static=False)
        assert generate(model, TEXTS, SEEDS, settings, batch, kept, static=True) == wanted
    assert taping.captures == 3


def test_a_replay_reads_and_writes_the_memory_of_its_capture() -> None:
    taping = Taping()
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    replayed = Replayed(lambda x, y: (x @ weight + y, y + 1), (torch.zeros(1, 4), torch.zeros(1, 4)), taping)
    places = []
    for number in range(2):
        given = torch.arange(4.0)[None] + number, torch.full((1, 4), 1.0 + number)
        found = replayed(*given)
        places.append([one.data_ptr() for one in found])
        assert torch.equal(found[0], given[0] @ weight + given[1])
        assert torch.equal(found[1], given[1] + 1)
    assert places[0] == places[1]


def test_a_step_that_waits_for_the_device_is_not_captured() -> None:
    for function in (
        lambda x: (x[x > 0],),
        lambda x: (x + x.max().item(),),
        lambda x: (x + torch.tensor(1.0),),
    ):
        with pytest.raises(RuntimeError, match="cannot be captured"):
            Replayed(function, (torch.ones(3),), Taping())


LARGE = ShowoConfig()
SMALL = ShowoConfig(hidden_size=160, num_hidden_layers=5, num_image_tokens=36)


@pytest.mark.parametrize(
    ("config", "candidates", "batch"),
    [
        (LARGE, 16, 16),
        (LARGE, 1, 16),
        (LARGE, 3, 15),
        (LARGE, 10, 10),
        (LARGE, 20, 20),
        (LARGE, 50, 17),
        (SMALL, 16, 96),
    ],
)
def test_a_gpu_generates_all_candidates_of_some_prompts_at_once(
    config: ShowoConfig, candidates: int, batch: int
) -> None:
    assert planned_gpu_batch(config, candidates) == batch
    assert launches_dominate(config, batch) == (config is SMALL)
