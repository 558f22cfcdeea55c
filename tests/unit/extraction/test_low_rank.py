"""Factors of matrices that are read in blocks of rows, against exact decompositions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.errors import ConfigError
from mergegrid.extraction.low_rank import (
    RankRule,
    factorize,
    normal_numbers,
    rank_rule,
    sketch_width,
    squared_error,
)

pytestmark = pytest.mark.usefixtures("single_thread")
SHAPES = [(96, 96), (200, 40), (40, 200), (1, 30), (30, 1)]


@pytest.fixture(scope="module")
def single_thread():
    with one_blas_thread():
        yield


def blocks_of(matrix, height=16):
    def start():
        for first in range(0, len(matrix), height):
            yield first, matrix[first : first + height].copy()

    return start


def factors_of(matrix, rule, height=16, seed=0):
    random = normal_numbers(
        CpuOperations(), seed, "w", (matrix.shape[1], sketch_width(rule, matrix.shape))
    )
    return factorize(blocks_of(matrix, height), matrix.shape, rule, (matrix**2).sum(), random)


def of_rank(shape, rank, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((shape[0], rank)) @ random.standard_normal((rank, shape[1]))


def decaying(shape, power=1.0, seed=0):
    """A matrix with singular values 1, 2^-power, 3^-power, ..."""
    left, values, right = np.linalg.svd(
        np.random.default_rng(seed).standard_normal(shape), full_matrices=False
    )
    return left * np.arange(1, len(values) + 1.0) ** -power @ right


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("true_rank", [1, 5])
@pytest.mark.parametrize("rank", [5, 16])
def test_a_matrix_of_low_rank_comes_back_at_its_rank(shape, true_rank, rank):
    matrix = of_rank(shape, true_rank)
    factors = factors_of(matrix, RankRule(rank))
    assert factors.left.shape[1] == len(factors.right) == min(true_rank, *shape)
    assert factors.energy == pytest.approx(1, abs=1e-12)
    error = np.linalg.norm(matrix - factors.left @ factors.right)
    assert error < 1e-12 * np.linalg.norm(matrix)


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("rank", [4, 16, 33])
def test_the_error_is_nearly_that_of_the_best_factors(shape, rank):
    matrix = decaying(shape)
    values = np.linalg.svd(matrix, compute_uv=False)
    factors = factors_of(matrix, RankRule(rank))
    best = np.sqrt((values[rank:] ** 2).sum())
    error = np.linalg.norm(matrix - factors.left @ factors.right)
    assert best * (1 - 1e-12) <= error < 1.01 * best
    # What is kept and what is lost add up: the product is a projection of the matrix.
    lost = error**2 / (matrix**2).sum()
    assert factors.energy == pytest.approx(1 - lost, abs=1e-12)


def test_a_flat_spectrum_is_the_worst_case():
    matrix = np.random.default_rng(0).standard_normal((256, 256))
    values = np.linalg.svd(matrix, compute_uv=False)
    factors = factors_of(matrix, RankRule(32))
    error = np.linalg.norm(matrix - factors.left @ factors.right)
    assert error < 1.03 * np.sqrt((values[32:] ** 2).sum())


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_an_energy_is_reached_by_the_fewest_directions(energy):
    matrix = decaying((150, 120), power=0.7)
    shares = np.linalg.svd(matrix, compute_uv=False) ** 2 / (matrix**2).sum()
    factors = factors_of(matrix, RankRule(512, energy))
    fewest = int(np.searchsorted(np.cumsum(shares), energy - 1e-13)) + 1
    assert factors.energy >= energy - 1e-13
    assert fewest <= len(factors.right) <= fewest * 1.05 + 1


def test_the_largest_rank_bounds_an_energy():
    matrix = decaying((100, 100), power=0.1)
    factors = factors_of(matrix, RankRule(7, 0.99))
    assert len(factors.right) == 7
    assert factors.energy < 0.99
    assert not RankRule(7, 0.99).satisfied(factors.energy)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    rank=st.integers(1, 40),
    seed=st.integers(0, 5),
)
@settings(max_examples=30, deadline=None)
def test_factors_never_exceed_rank_or_energy(rows, columns, rank, seed):
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    rank = min(rank, rows, columns)
    factors = factors_of(matrix, RankRule(rank), seed=seed)
    assert factors.left.shape == (rows, rank)
    assert factors.right.shape == (rank, columns)
    assert 0 < factors.energy <= 1 + 1e-12
    if rank == min(rows, columns):
        assert np.allclose(factors.left @ factors.right, matrix, rtol=0, atol=1e-10)


@pytest.mark.parametrize("height", [1, 7, 64])
def test_the_height_of_blocks_changes_only_roundings(height):
    matrix = decaying((64, 48))
    one, other = factors_of(matrix, RankRule(8)), factors_of(matrix, RankRule(8), height)
    assert np.allclose(one.left @ one.right, other.left @ other.right, rtol=0, atol=1e-12)


def test_the_measured_error_counts_the_rounding_of_the_factors():
    matrix = of_rank((50, 30), 3)
    factors = factors_of(matrix, RankRule(3))
    left, right = factors.left.astype(np.float32), factors.right.astype(np.float32)
    expected = ((matrix - left.astype(float) @ right.astype(float)) ** 2).sum()
    measured = squared_error(blocks_of(matrix), left, right)
    assert measured == pytest.approx(expected, rel=1e-9)
    assert 0 < measured < 1e-12 * (matrix**2).sum()


def test_random_numbers_are_normal_and_depend_on_seed_and_name_alone():
    def draw(seed, name, shape=(500, 200)):
        return normal_numbers(CpuOperations(), seed, name, shape)

    numbers = draw(0, "a")
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.std() - 1) < 0.01
    assert abs((np.abs(numbers) < 1).mean() - 0.6827) < 0.01
    assert abs(np.corrcoef(numbers[:, 0::2].ravel(), numbers[:, 1::2].ravel())[0, 1]) < 0.02
    assert np.array_equal(numbers, draw(0, "a"))
    assert not np.array_equal(numbers, draw(1, "a"))
    assert not np.array_equal(numbers, draw(0, "b"))
    assert draw(0, "a", (3, 5)).shape == (3, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of rank and energy"),
        ({"rank": 4, "energy": 0.9}, "exactly one of rank and energy"),
        ({"rank": 0}, "rank 0 is not positive"),
        ({"rank": -1}, "rank -1 is not positive"),
        ({"rank": 4, "max_rank": 8}, "max_rank 8 is for an energy"),
        ({"energy": 0.0}, "energy 0.0 is not a share"),
        ({"energy": 1.5}, "energy 1.5 is not a share"),
        ({"energy": float("nan")}, "energy nan is not a share"),
        ({"energy": 0.9, "max_rank": 0}, "max_rank 0 is not positive"),
    ],
)
def test_rules_that_say_nothing_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        rank_rule(**arguments)
