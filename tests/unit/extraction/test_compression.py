"""Sums of products, against the same sums formed in float64."""

import numpy as np
import pytest

from mergegrid.engine.blas_compat import one_blas_thread
from mergegrid.extraction.compression import compress, norm

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(scope="module")
def single_thread():
    with one_blas_thread():
        yield


def pairs_of(shape, ranks, seed=0):
    random = np.random.default_rng(seed)
    return [
        (random.standard_normal((shape[0], rank)), random.standard_normal((rank, shape[1])))
        for rank in ranks
    ]


def total(pairs):
    return sum(left @ right for left, right in pairs)


@pytest.mark.parametrize("shape", [(50, 50), (80, 20), (20, 80), (6, 6)])
@pytest.mark.parametrize("ranks", [(3,), (4, 9), (8, 8, 8)])
def test_factors_are_exact_at_the_numerical_rank(shape, ranks):
    pairs = pairs_of(shape, ranks)
    factors = compress(pairs)
    assert len(factors.right) == min(sum(ranks), *shape)
    assert factors.energy == 1
    error = np.linalg.norm(total(pairs) - factors.left @ factors.right)
    assert error < 1e-13 * np.linalg.norm(total(pairs)) * max(shape)


def test_equal_products_need_their_rank_once():
    (pair,) = pairs_of((40, 30), [5])
    factors = compress([pair, pair, (2 * pair[0], pair[1])])
    assert len(factors.right) == 5
    assert np.allclose(factors.left @ factors.right, 4 * pair[0] @ pair[1])


def test_products_that_cancel_leave_nothing():
    (pair,) = pairs_of((40, 30), [5])
    assert compress([pair, (-pair[0], pair[1])]) is None
    assert compress([(0 * pair[0], pair[1])]) is None


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_a_lower_rank_is_the_best_approximation_of_that_rank(rank):
    pairs = pairs_of((40, 30), [8, 8])
    values = np.linalg.svd(total(pairs), compute_uv=False)
    factors = compress(pairs, rank)
    assert len(factors.right) == rank
    error = np.linalg.norm(total(pairs) - factors.left @ factors.right)
    assert error == pytest.approx(np.linalg.norm(values[rank:]), rel=1e-9)
    assert factors.energy == pytest.approx((values[:rank] ** 2).sum() / (values**2).sum())


def test_the_norm_of_a_sum_needs_no_sum():
    pairs = pairs_of((40, 30), [8, 3])
    assert norm(pairs) == pytest.approx(np.linalg.norm(total(pairs)), rel=1e-12)
    close = (-pairs[0][0] * (1 + 1e-7), pairs[0][1])
    expected = np.linalg.norm(pairs[0][0] @ pairs[0][1]) * 1e-7
    assert norm([pairs[0], close]) == pytest.approx(expected, rel=1e-6)
