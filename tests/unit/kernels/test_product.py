"""A product of two thin matrices: every element in one order, whatever range is computed."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergegrid.kernels.opcodes import TILE
from mergegrid.kernels.product import Product

#: Rows, rank, columns: rows in pairs and alone, ranks by four and a rest, columns by tiles.
SHAPES = [(1, 1, 1), (1, 1, 700), (2, 4, 256), (3, 5, 257), (7, 13, 40), (5, 64, 300), (4, 3, 512)]


def matrices(rows, rank, columns):
    random = np.random.default_rng(rows + rank + columns)
    left = random.standard_normal((rows, rank)).astype(np.float32)
    return left, random.standard_normal((rank, columns)).astype(np.float32)


def elements(product, start, stop):
    out = np.full(stop - start, np.nan, np.float32)
    product.elements(start, out)
    return out


def whole(product):
    return elements(product, 0, product.rows * product.columns)


def rounded(number):
    """The float32 nearest to a fraction; float64 in between would round twice."""
    nearest = np.float32(float(number))
    beside = [np.nextafter(nearest, np.float32(way)) for way in (-np.inf, np.inf)]
    return min([nearest, *beside], key=lambda x: (abs(Fraction(float(x)) - number), x != nearest))


@pytest.mark.parametrize("shape", [(2, 5, 3), (3, 9, 2)])
def test_an_element_is_a_sum_of_fused_multiply_adds_in_order(shape):
    left, right = matrices(*shape)
    expected = np.empty((shape[0], shape[2]), np.float32)
    for (i, j), _ in np.ndenumerate(expected):
        total = np.float32(0)
        for one, other in zip(left[i], right[:, j], strict=True):
            total = rounded(Fraction(float(one)) * Fraction(float(other)) + Fraction(float(total)))
        expected[i, j] = np.float32(0.3) * total
    np.testing.assert_array_equal(whole(Product(left, right, 0.3)), expected.reshape(-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_product(shape):
    left, right = matrices(*shape)
    expected = 0.5 * (left.astype(np.float64) @ right)
    limit = 1e-7 * shape[1] * np.abs(expected).max()
    np.testing.assert_allclose(whole(Product(left, right, 0.5)), expected.reshape(-1), 0, limit)


@given(data=st.data(), shape=st.sampled_from(SHAPES))
@settings(max_examples=200, deadline=None)
def test_no_element_depends_on_the_range(data, shape):
    product = Product(*matrices(*shape), 1.5)
    count = product.rows * product.columns
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    np.testing.assert_array_equal(elements(product, start, stop), whole(product)[start:stop])


def test_matrices_in_any_memory_order_give_the_same_bits():
    left, right = matrices(6, 8, 300)
    other = Product(np.asfortranarray(left), np.asfortranarray(right))
    np.testing.assert_array_equal(whole(other), whole(Product(left, right)))


def test_columns_that_fill_the_last_tile_do_not_reach_the_result():
    left, right = np.full((1, 1), np.inf, np.float32), np.ones((1, TILE + 1), np.float32)
    assert np.isposinf(whole(Product(left, right))).all()


@pytest.mark.parametrize(
    ("start", "out"),
    [
        (-1, np.empty(2, np.float32)),
        (5, np.empty(2, np.float32)),
        (0, np.empty(2)),
        (0, np.empty((1, 2), np.float32)),
        (0, np.empty(4, np.float32)[::2]),
    ],
)
def test_memory_outside_of_arrays_is_never_touched(start, out):
    with pytest.raises(ValueError, match=r"product|flat"):
        Product(*matrices(2, 1, 3)).elements(start, out)


def test_matrices_that_do_not_fit_are_refused():
    left, right = matrices(2, 3, 4)
    with pytest.raises(ValueError, match="cannot be multiplied"):
        Product(left, right[:2])
    with pytest.raises(ValueError, match="cannot be multiplied"):
        Product(left.astype(np.float64), right)
