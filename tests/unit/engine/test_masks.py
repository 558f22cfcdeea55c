"""One test for each sentence that the numerical contract says about masks."""

import os
import subprocess
import sys
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from mergegrid.engine.masks import mask_key, surely_drop, threshold
from mergegrid.kernels.loops import philox
from mergegrid.sparsifiers.drop_only import DropOnly

names = st.text(min_size=1, max_size=20)
seeds = st.integers(0, 2**63 - 1)
rates = st.floats(0, 1)
SPREAD = 20_000


def kept(sparsify, rate, count, seed=0, expert="math", tensor="w"):
    """Which elements an engine keeps: those that are not those of the base."""
    zeros, ones = {tensor: np.zeros(count)}, {tensor: np.ones(count)}
    spec = DropOnly(rate=rate, seed=seed)
    return sparsify(spec, zeros, ones, expert)[1][tensor] == 1


@given(rate=rates)
def test_threshold_is_the_rounded_share_of_all_words(rate):
    assert threshold(rate) == round((1 - rate) * 4294967296)


@given(rates=st.lists(rates, min_size=2, max_size=2))
def test_thresholds_fall_with_the_rate_so_masks_are_nested(rates):
    low, high = sorted(rates)
    assert 0 <= threshold(high) <= threshold(low) <= 2**32


@given(seed=seeds, expert=names, tensor=names)
def test_keys_are_four_words_that_seed_expert_and_tensor_decide(seed, expert, tensor):
    key = mask_key(seed, expert, tensor)
    assert len(key) == 4
    assert all(0 <= word < 2**32 for word in key)
    others = [
        (seed + 1, expert, tensor),
        (seed, expert + "x", tensor),
        (seed, expert, tensor + "x"),
    ]
    assert all(mask_key(*other) != key for other in others)


def test_keys_tell_experts_and_tensors_apart_wherever_one_name_ends():
    assert len({mask_key(0, *pair) for pair in [("a", "bc"), ("ab", "c"), ("bc", "a")]}) == 3


@pytest.mark.parametrize(
    ("key", "start", "words"),
    [
        (
            (5, "expert", "tensor"),
            0,
            [
                *(1544731652, 2658094899, 831683096, 2820104037),
                *(1319774356, 2247181868, 2472818975, 1648763164),
            ],
        ),
        (
            (0, "rte", "encoder.layer.0.attention.self.query.weight"),
            1_000_000,
            [2561531201, 2250367647, 3043160013, 1881053648],
        ),
    ],
)
def test_words_of_a_tensor_never_change_from_one_version_to_the_next(key, start, words):
    out = np.empty(len(words), np.uint32)
    philox(*map(np.uint64, mask_key(*key)), np.uint64(start // 4), out)
    assert out.tolist() == words


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("count", [1, 3, 4, 4097, 150_001])
def test_element_i_is_kept_if_word_i_mod_4_of_block_i_div_4_is_below_the_threshold(
    sparsify, words, rate, count
):
    expected = words(7, "math", "w", count) < threshold(rate)
    assert np.array_equal(kept(sparsify, rate, count, seed=7), expected)


def test_what_survives_a_high_rate_survives_a_lower_one(sparsify):
    masks = [kept(sparsify, rate, SPREAD) for rate in (0.0, 0.3, 0.5, 0.9, 0.99, 1.0)]
    assert masks[0].all()
    assert not masks[-1].any()
    for more, fewer in pairwise(masks):
        assert not (fewer & ~more).any()
        assert fewer.sum() < more.sum()


def test_masks_are_independent_between_seeds_experts_and_tensors_of_one_shape(sparsify):
    keys = [(0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y"), (0, "x", "a")]
    masks = [kept(sparsify, 0.5, SPREAD, *key) for key in keys]
    for one, other in combinations(masks, 2):
        # Independent masks agree on half of the elements: within 5 standard deviations.
        assert abs((one == other).sum() - SPREAD / 2) < 5 * np.sqrt(SPREAD) / 2


def test_neighbouring_elements_are_kept_independently(sparsify):
    mask = kept(sparsify, 0.5, SPREAD)
    for distance in (1, 2, 3, 4, 8):
        agree = (mask[distance:] == mask[:-distance]).sum()
        count = SPREAD - distance
        assert abs(agree - count / 2) < 5 * np.sqrt(count) / 2


def test_masks_do_not_depend_on_the_shape(sparsify):
    spec, ones = DropOnly(rate=0.5), np.ones(24)
    flat = sparsify(spec, {"w": 0 * ones}, {"w": ones})[1]["w"]
    for shape in [(24,), (4, 6), (2, 3, 4), (24, 1)]:
        shaped = ones.reshape(shape)
        merged = sparsify(spec, {"w": 0 * shaped}, {"w": shaped})[1]["w"]
        assert np.array_equal(merged, flat.reshape(shape))


def test_masks_do_not_depend_on_the_other_tensors_of_a_model(sparsify):
    ones = {name: np.ones(1000) for name in ("a", "b", "c")}
    spec = DropOnly(rate=0.5)
    together = sparsify(spec, {name: np.zeros(1000) for name in ones}, ones)[1]
    alone = sparsify(spec, {"b": np.zeros(1000)}, {"b": np.ones(1000)})[1]
    assert np.array_equal(together["b"], alone["b"])


def test_keys_do_not_depend_on_pythonhashseed():
    program = "from mergegrid.engine.masks import mask_key; print(mask_key(5, 'expert', 'w'))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "1234")
    }
    assert printed == {f"{mask_key(5, 'expert', 'w')}\n"}


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.99, 0.999])
def test_the_share_of_kept_elements_is_binomial(sparsify, rate):
    count = 1_000_000
    deviation = np.sqrt(count * rate * (1 - rate))
    assert abs(kept(sparsify, rate, count).sum() - count * (1 - rate)) < 4 * deviation


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("count", [1, 64, 2_000, 1_000_000])
def test_a_number_that_masks_surely_drop_is_fallen_short_of_less_often_than_digests_collide(
    rate, count
):
    wanted = np.unique(np.linspace(0, count, 300).astype(int))
    sure = np.array([surely_drop([(count, rate)], int(each)) for each in wanted])
    chance = binom.logcdf(wanted - 1, count, rate)
    assert (chance[sure] < -128 * np.log(2)).all()
    # Nor is what is much likelier still not taken for sure.
    assert sure[chance < -150 * np.log(2)].all()


def test_masks_surely_drop_all_at_rate_1_and_nothing_of_nothing():
    assert surely_drop([(3, 1.0), (2, 1.0)], 5)
    assert not surely_drop([(3, 1.0), (2, 1.0)], 6)
    assert not surely_drop([(3, 1.0), (2, 0.5)], 5)
    assert surely_drop([], 0)
    assert not surely_drop([(5, 0.0)], 1)


def test_what_tensors_of_other_rates_surely_drop_is_taken_together():
    assert surely_drop([(10_000, 0.9), (10_000, 0.1)], 8_000)
    assert not surely_drop([(10_000, 0.9), (10_000, 0.1)], 10_000)
