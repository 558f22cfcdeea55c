import numpy as np
import pytest

from mergegrid.checkpoints.checkpoint import InMemory
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.delta_reports.histograms import EDGES
from mergegrid.delta_reports.sizes import delta_sizes
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.errors import CheckpointError


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
    ranges = delta_sizes(InMemory(base), InMemory(expert))
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


def test_every_percentile_of_a_hundred_parameters_is_one_of_them():
    values = np.float32(1.05) ** np.arange(1, 101, dtype=np.float32)
    ranges = delta_sizes(
        InMemory({"w": np.zeros(100, np.float32)}), InMemory({"w": values[::-1].copy()})
    )
    found = [ranges[0].quantiles[f"q{percent:02d}"] for percent in range(1, 100)]
    assert found == pytest.approx(values[:99], rel=0.008)


def test_a_row_has_the_columns_of_the_tables(base, expert):
    row = delta_sizes(InMemory(base), InMemory(expert))[0].row()
    quantiles = [f"q{percent:02d}" for percent in range(1, 100)]
    assert list(row) == [
        *("tensor", "n", "mean", "rms", "max", "share_below_0.002"),
        *quantiles,
        "q999",
        *("share_zero", "lost_in_bfloat16", "lost_in_float16"),
        *("lowest", *(f"d{percent}" for percent in range(10, 100, 10)), "highest"),
    ]


def test_threads_change_no_number(base, expert):
    models = InMemory(base), InMemory(expert)
    assert delta_sizes(*models, threads=3) == delta_sizes(*models, threads=1)


def test_an_unchanged_tensor_has_only_zeros():
    same = InMemory({"w": np.ones(5)})
    for each in delta_sizes(same, same):
        assert (each.max, each.quantiles["q50"], each.l2) == (0, 0, 0)
        assert each.small == each.zero == each.unchanged == 5


def test_what_rounding_to_a_shorter_dtype_loses_is_counted():
    # Around 1, bfloat16 has steps of 1/128 above and 1/256 below.
    base = InMemory({"w": np.ones(4)})
    expert = InMemory({"w": np.array([1.0, 1.001, 1.01, 0.999])})
    for dtype, unchanged in {"float32": 1, "bfloat16": 3, "float16": 1}.items():
        whole = delta_sizes(base, expert, DTYPES[dtype])[0]
        assert (whole.zero, whole.unchanged) == (1, unchanged)
    assert delta_sizes(base, expert)[0].unchanged == 1


def test_deltas_that_vanish_in_short_dtypes_are_counted_without_those_that_are_zero():
    # Around 1, float16 has steps of 1/1024 above and 1/2048 below; 2^-10 is one of them.
    base = InMemory({"w": np.ones(5)})
    expert = InMemory({"w": np.array([1.0, 1 + 2**-10, 1 + 2**-12, 1 + 2**-7, 1 - 2**-13])})
    whole = delta_sizes(base, expert)[0]
    assert whole.lost == {"bfloat16": 3, "float16": 2}
    row = whole.row()
    assert (row["share_zero"], row["lost_in_bfloat16"], row["lost_in_float16"]) == (0.2, 0.6, 0.4)


def test_deltas_with_their_signs_are_those_numpy_finds(base, expert):
    flat = {name: (expert[name] - base[name]).ravel() for name in base}
    flat["all"] = np.concatenate(list(flat.values()))
    for each in delta_sizes(InMemory(base), InMemory(expert)):
        values = flat[each.tensor]
        assert (each.lowest, each.highest) == (values.min(), values.max())
        for tenth in range(1, 10):
            found = np.quantile(values, tenth / 10, method="inverted_cdf")
            assert each.deciles[f"d{10 * tenth}"] == pytest.approx(found, rel=0.008)
        outer = np.array([*(-edge for edge in reversed(EDGES)), *EDGES])
        # A magnitude on an edge belongs to the bin further out, on both sides.
        sizes = np.searchsorted(EDGES, np.abs(values.astype(np.float64)), side="right")
        bins = len(EDGES) + np.where(values < 0, -sizes, sizes)
        assert each.histogram == tuple(np.bincount(bins, minlength=len(outer) + 1))


def test_each_delta_of_a_hand_made_model_is_in_its_bin():
    deltas = [0.0, 2.0**-31, -(2.0**-30), 2.0**-9, -(2.0**-9), 0.00277, 8.0, -100.0]
    whole = delta_sizes(InMemory({"w": np.zeros(8)}), InMemory({"w": np.array(deltas)}))[0]
    middle = len(EDGES)
    assert {place - middle: n for place, n in enumerate(whole.histogram) if n} == {
        # Half octaves from zero: 2^-30 begins the first, 2^-9 the 43rd, sqrt(2) / 512 the 44th.
        0: 2, -1: 1, 43: 1, -43: 1, 44: 1, 67: 1, -68: 1,
    }  # fmt: skip
    assert (whole.lowest, whole.highest, whole.deciles["d50"]) == (-100.0, 8.0, 0.0)


def test_a_delta_that_is_not_finite_is_refused_with_its_place():
    values = np.zeros(2 * GRAIN)
    values[GRAIN + 7] = np.inf
    with pytest.raises(CheckpointError, match=rf"w has deltas that.* at element {GRAIN + 7}; base"):
        delta_sizes(InMemory({"w": np.zeros(2 * GRAIN)}), InMemory({"w": values}))
