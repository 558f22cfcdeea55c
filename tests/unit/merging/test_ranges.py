import numpy as np
import pytest

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.errors import CheckpointError
from mergegrid.merging.arrays.operations import GRAIN
from mergegrid.merging.ranges import delta_ranges


def drawn(seed, scale):
    random = np.random.default_rng(seed)
    shapes = {"embedding.weight": (1100, 1000), "layer.bias": (8,), "layer.weight": (8, 8)}
    return {
        name: random.standard_normal(shape).astype(np.float32) * np.float32(scale)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def base():
    return drawn(0, 0.02)


@pytest.fixture(scope="module")
def expert(base):
    return {name: base[name] + delta for name, delta in drawn(1, 0.002).items()}


def by_tensor(ranges):
    return {each.tensor: each for each in ranges}


def test_sizes_of_a_delta_are_those_numpy_finds(base, expert):
    ranges = delta_ranges(InMemory(base), InMemory(expert))
    flat = {name: np.abs(expert[name] - base[name]).ravel() for name in sorted(base)}
    assert [each.tensor for each in ranges] == ["all", *flat]
    flat["all"] = np.concatenate(list(flat.values()))
    for each in ranges:
        values = flat[each.tensor]
        exact = values.astype(np.float64)
        assert each.n == values.size
        assert each.mean == pytest.approx(exact.mean(), rel=1e-12)
        assert each.rms == pytest.approx(np.sqrt((exact**2).mean()), rel=1e-12)
        assert each.l1 == pytest.approx(exact.sum(), rel=1e-12)
        assert each.l2 == pytest.approx(np.linalg.norm(exact), rel=1e-12)
        assert each.max == values.max()
        assert each.small == (values < np.float32(0.002)).sum()
        assert each.large == (values > np.float32(0.01)).sum()
        assert each.zero == (values == 0).sum()
        for quantile, share in {"q10": 0.1, "q50": 0.5, "q99": 0.99}.items():
            found = np.quantile(values, share, method="inverted_cdf")
            assert each.quantiles[quantile] == pytest.approx(found, rel=0.008)


def test_a_row_has_the_columns_of_the_tables(base, expert):
    row = delta_ranges(InMemory(base), InMemory(expert))[0].row()
    quantiles = [f"q{percent:02d}" for percent in range(1, 100)]
    assert list(row) == [
        *("tensor", "n", "mean", "rms", "max", "share_below_0.002"),
        *quantiles,
        "q999",
    ]


def test_threads_change_no_number(base, expert):
    models = InMemory(base), InMemory(expert)
    assert delta_ranges(*models, threads=3) == delta_ranges(*models, threads=1)


def test_an_unchanged_tensor_has_only_zeros():
    same = InMemory({"w": np.ones(5)})
    for each in delta_ranges(same, same):
        assert (each.max, each.quantiles["q50"], each.l2) == (0, 0, 0)
        assert each.small == each.zero == each.unchanged == 5


def test_what_rounding_to_a_shorter_dtype_loses_is_counted():
    # Around 1, bfloat16 has steps of 1/128 above and 1/256 below.
    base = InMemory({"w": np.ones(4)})
    expert = InMemory({"w": np.array([1.0, 1.001, 1.01, 0.999])})
    for dtype, unchanged in {"float32": 1, "bfloat16": 3, "float16": 1}.items():
        whole = delta_ranges(base, expert, DTYPES[dtype])[0]
        assert (whole.zero, whole.unchanged) == (1, unchanged)
    assert delta_ranges(base, expert)[0].unchanged == 1


def test_a_delta_that_is_not_finite_is_refused_with_its_place():
    values = np.zeros(2 * GRAIN)
    values[GRAIN + 7] = np.inf
    with pytest.raises(CheckpointError, match=rf"w has deltas that.* at element {GRAIN + 7}; base"):
        delta_ranges(InMemory({"w": np.zeros(2 * GRAIN)}), InMemory({"w": values}))
