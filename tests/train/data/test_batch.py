"""Rows, labels, masks, and the log-probs that the model gives them."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.parity.folder import Golden
from engine.checkpoints.weights import load_model
from engine.errors import DataError
from engine.models.masks import mmu_mask, t2i_mask
from engine.records import Preference
from engine.samplers.masked_images import MaskedImages, text_prefixes
from train.data.batch import IGNORE, Layout, Rows, pair_rows
from train.data.image_mask import ImageMask, image_mask, mask_from_uniforms, mask_seed
from train.logps.row_logps import RowLogps

TOLERANCE = 5e-5
"""The largest difference measured is 1.5e-5, two float32 steps of a summed log-prob near -64."""


def test_golden_masks_follow_from_the_golden_uniform_draws(golden: Path) -> None:
    stored = np.load(golden / "case6_mask.npz")
    for row in range(len(stored["timesteps"])):
        found = mask_from_uniforms(float(stored["timesteps"][row]), stored["rand_perm_uniform"][row])
        assert np.array_equal(found, stored["mask_win"][row])
        assert np.array_equal(found, stored["mask_lose"][row])


@pytest.mark.parametrize("case", ["case3a_dpo_b1", "case3b_dpo_b2"])
@pytest.mark.parametrize(("file", "who"), [("weights", "reference"), ("policy", "policy")])
@pytest.mark.parametrize("side", ["win", "lose"])
def test_golden_row_log_probs_are_reproduced(golden: Path, case: str, file: str, who: str, side: str) -> None:
    stored = np.load(golden / f"{case}.npz")
    scorer = RowLogps(Golden(golden).model(file))
    ids, mask = (torch.from_numpy(stored[f"{name}_{side}"]) for name in ("input_ids", "mask"))
    labels = torch.from_numpy(stored[f"labels_{side}"])
    half = len(ids) // 2
    # The official labels carry text, soi and eoi in the image rows; only the masked codes count.
    codes = torch.where(ids[:half] == scorer.model.config.vocabulary.mask, labels[:half], IGNORE)
    shifted = torch.cat((labels[half:, 1:], torch.full((half, 1), IGNORE)), 1)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    found = scorer.score(Rows(ids, mask, positions, torch.cat((codes, shifted))))
    np.testing.assert_allclose(found[:half], stored[f"derived_t2i_image_only_{side}_{who}"], atol=TOLERANCE)
    np.testing.assert_allclose(found[half:], stored[f"derived_mmu_per_row_{side}_{who}"], atol=TOLERANCE)


@given(st.text(min_size=1, max_size=8), st.integers(0, 3), st.integers(0, 99), st.integers(1, 300))
def test_a_mask_is_a_pure_function_that_hides_at_least_one_token(
    pair: str, draw: int, seed: int, tokens: int
) -> None:
    mask = image_mask(mask_seed(pair, draw, seed), tokens).masked
    assert np.array_equal(mask, image_mask(mask_seed(pair, draw, seed), tokens).masked)
    assert mask.shape == (tokens,)
    assert 1 <= mask.sum() <= tokens


def test_masks_differ_between_numbers_pairs_and_seeds_and_hide_two_over_pi_on_average() -> None:
    seeds = [mask_seed(f"pair-{i}", k, seed) for i in range(50) for k in range(4) for seed in range(2)]
    masks = [image_mask(seed, 256).masked for seed in seeds]
    partial = [mask.tobytes() for mask in masks if not mask.all()]  # 4% hide everything, hence alike
    assert len(set(partial)) == len(partial) > 370
    share = np.mean([mask.mean() for mask in masks])
    assert share == pytest.approx(2 / math.pi, abs=0.05)


@pytest.fixture
def layout(checkpoint: Path) -> Layout:
    return Layout.load(checkpoint)


def test_a_caption_row_is_the_sampling_prompt_with_labels_on_caption_and_eos(layout: Layout) -> None:
    words = layout.words
    row = layout.caption_row(range(9), (5, 6, 7))
    assert row.ids[:2] == [words.mmu, words.soi]
    assert row.ids[11:13] == [words.eoi, words.bos]
    assert row.ids[-4:] == [5, 6, 7, words.eos]
    predicted = [(row.ids[i + 1], label) for i, label in enumerate(row.labels) if label != IGNORE]
    assert predicted == [(5, 5), (6, 6), (7, 7), (words.eos, words.eos)]


def test_an_eos_that_was_sampled_is_not_doubled(layout: Layout) -> None:
    assert layout.caption_row(range(9), (5, layout.words.eos)) == layout.caption_row(range(9), (5,))


def test_a_caption_that_was_cut_has_no_end_to_predict(layout: Layout, preferences: list[Preference]) -> None:
    whole, cut = layout.caption_row(range(9), (5, 6)), layout.caption_row(range(9), (5, 6), ended=False)
    assert (cut.ids, cut.labels[-1]) == (whole.ids[:-1], IGNORE)
    assert [one for one in cut.labels if one != IGNORE] == [5, 6]
    assert preferences[0].captions
    win = msgspec.structs.replace(preferences[0].captions.win, token_ids=(5, 6), ended=False)
    captions = msgspec.structs.replace(preferences[0].captions, win=win)
    one = msgspec.structs.replace(preferences[0], captions=captions, image_codes=tuple(range(9)))
    assert layout.caption_of(one, "win") == cut


def test_a_caption_that_is_missing_is_no_label(layout: Layout, preferences: list[Preference]) -> None:
    """Imported pairs may have none; the empty text would be learned as what the image shows."""
    given = preferences[:2]
    missing = [given[0], msgspec.structs.replace(given[1], caption="")]
    masks = [[ImageMask(np.ones(9, bool))]] * 2
    found = pair_rows(layout, missing, masks, real_captions=True, real_images=masks)
    assert pair_rows(layout, given, masks, real_captions=True, real_images=masks).homologous == [0, 1]
    assert found.homologous == [0]
    assert len(found.rows.ids_RT) == found.paired + 2


def test_an_image_row_labels_only_the_masked_codes_in_their_own_places(layout: Layout) -> None:
    words, masked = layout.words, np.arange(9) % 2 == 0
    row = layout.image_row("a red cube", range(9), masked)
    start = row.ids.index(words.soi) + 1
    assert row.ids[-1] == words.eoi
    for i in range(9):
        code = words.code_offset + i
        assert row.ids[start + i] == (words.mask if masked[i] else code)
        assert row.labels[start + i] == (code if masked[i] else IGNORE)
    assert sum(label != IGNORE for label in row.labels) == masked.sum()


def test_trimmed_rows_score_as_the_left_padded_rows_of_the_sampler(layout: Layout, checkpoint: Path) -> None:
    words, config, model = layout.words, layout.config, load_model(checkpoint)
    masked = image_mask(7, 9).masked
    row = layout.image_row("a red cube", range(9), masked)
    ids = torch.tensor([[words.pad] * row.first + row.ids])
    assert ids.shape[1] == config.max_text_len + 1 + 9 + 2
    logits = model.head(model(ids, t2i_mask(ids, words.pad, words.soi, words.eoi))).log_softmax(-1)
    wanted = sum(
        logits[0, row.first + i, label].item() for i, label in enumerate(row.labels) if label != IGNORE
    )
    longer = layout.image_row("a red cube and two blue cubes", range(9), masked)
    found = RowLogps(model).score(layout.stack([row, longer, layout.caption_row(range(9), range(1, 9))]))
    assert found[0].item() == pytest.approx(wanted, abs=1e-4)


def test_caption_rows_score_as_the_sequence_standing_alone(layout: Layout, checkpoint: Path) -> None:
    model = load_model(checkpoint)
    row = layout.caption_row(range(9), (5, 6, 7))
    ids = torch.tensor([row.ids])
    logits = model.head(model(ids, mmu_mask(ids, layout.words.eoi))).log_softmax(-1)
    wanted = sum(logits[0, len(row.ids) - 5 + i, t].item() for i, t in enumerate((5, 6, 7, layout.words.eos)))
    rows = layout.stack([layout.image_row("a ball", range(9), np.ones(9, bool)), row])
    assert RowLogps(model).score(rows)[1].item() == pytest.approx(wanted, abs=1e-4)


def test_a_step_gives_every_preference_its_own_rows(layout: Layout, preferences: list[Preference]) -> None:
    masks = [[image_mask(mask_seed(one.id, k, 0), 9) for k in range(2)] for one in preferences]
    batch = pair_rows(layout, preferences, masks)
    assert batch.captions == [0, 2, 3, 4, 5]
    assert batch.images == [0, 1, 2, 3, 5]
    assert len(batch.rows.ids_RT) == 2 * 5 + 2 * 2 * 5
    win, lose, image_win, image_lose = batch.split(torch.arange(30.0))
    assert win.tolist() == [0, 0, 1, 2, 3, 4]
    assert lose.tolist() == [5, 0, 6, 7, 8, 9]
    assert image_win.tolist() == [10.5, 12.5, 14.5, 16.5, 0, 18.5]
    assert image_lose.tolist() == [20.5, 22.5, 24.5, 26.5, 0, 28.5]
    assert (batch.rows.ids_RT[:, 0] == layout.words.t2i).tolist() == [False] * 10 + [True] * 20
    assert batch.has(batch.images).tolist() == [True, True, True, True, False, True]


def test_winner_and_loser_hide_the_same_tokens(layout: Layout, preferences: list[Preference]) -> None:
    batch = pair_rows(layout, preferences[:1], [[image_mask(7, 9)]], captions=False)
    win, lose = batch.rows.ids_RT == layout.words.mask
    assert torch.equal(win, lose)
    assert win.any()


def test_a_dropped_text_gives_the_prompt_that_guidance_generates_without_text(
    layout: Layout, checkpoint: Path
) -> None:
    """The row of no text continues the sampler's own prefix: its logits on a masked image are the same."""
    model, words = load_model(checkpoint), layout.words
    row = layout.image_row("", range(9), np.ones(9, bool))
    assert row.ids[:3] == [words.t2i, words.bos, words.eos]
    assert row.first == layout.config.max_text_len + 1 - 3
    images = MaskedImages(model, text_prefixes(model, [()]))
    sampled = images.logits(torch.full((1, 9), -1), 0.0).log_softmax(-1)
    rows = layout.stack([row])
    with torch.no_grad():
        hidden = model(rows.ids_RT, rows.mask, rows.positions_RT)[0, 4:13]
    trained = model.head(hidden)[:, words.code_offset : words.mask].log_softmax(-1)
    torch.testing.assert_close(sampled.view(trained.shape), trained, atol=1e-4, rtol=1e-4)


def test_winner_and_loser_of_a_draw_both_lose_their_text(
    layout: Layout, preferences: list[Preference]
) -> None:
    masked = image_mask(7, 9).masked
    masks = [[ImageMask(masked, text=True), ImageMask(masked, text=False)]]
    batch = pair_rows(layout, preferences[:1], masks, captions=False)
    lengths = (batch.rows.ids_RT != layout.words.pad).sum(1).tolist()
    assert lengths == [lengths[0], 14, lengths[0], 14]
    assert lengths[0] > 14


@given(st.integers(0, 2**62), st.floats(0, 0.99), st.floats(0, 0.99))
def test_a_seed_decides_mask_and_text_apart(seed: int, one: float, other: float) -> None:
    first, second = image_mask(seed, 30, min(one, other)), image_mask(seed, 30, max(one, other))
    assert np.array_equal(first.masked, second.masked)
    assert image_mask(seed, 30, 0.0).text
    assert first.text or not second.text


def test_texts_are_dropped_as_often_as_asked() -> None:
    dropped = [not image_mask(seed, 4, 0.1).text for seed in range(4000)]
    assert np.mean(dropped) == pytest.approx(0.1, abs=0.015)


def test_preferences_of_another_model_are_refused_by_id(
    layout: Layout, preferences: list[Preference]
) -> None:
    layout.check(preferences)
    short = msgspec.structs.replace(preferences[0], image_codes=(1, 2, 3))
    with pytest.raises(DataError, match=r"item-0.*3 codes"):
        layout.check([short])


def test_a_caption_may_hold_any_id_of_the_model(layout: Layout, preferences: list[Preference]) -> None:
    """Sampling is over the whole vocabulary, as in the official code, so an image's id can come up."""
    pair = preferences[0].captions
    assert pair is not None

    def saying(token: int) -> Preference:
        win = msgspec.structs.replace(pair.win, token_ids=(1, token))
        return msgspec.structs.replace(preferences[0], captions=msgspec.structs.replace(pair, win=win))

    layout.check([saying(layout.words.mask)])
    with pytest.raises(DataError, match=rf"item-0.*ids beyond this checkpoint's {layout.words.size}"):
        layout.check([saying(layout.words.size)])
