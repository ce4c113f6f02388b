"""Seeds of candidates."""

from engine.samplers.seeds import sample_seed


def test_a_seed_is_a_pure_function_of_its_four_values() -> None:
    assert sample_seed(7, "item-3", "paint", 2) == 4651653673976691944


def test_every_value_changes_the_seed_and_all_fit_63_bits() -> None:
    seeds = {
        sample_seed(seed, key, kind, index)
        for seed in (0, 1)
        for key in ("a", "b", "1")
        for kind in ("caption", "paint")
        for index in range(11)
    }
    assert len(seeds) == 2 * 3 * 2 * 11
    assert all(0 <= seed < 2**63 for seed in seeds)
