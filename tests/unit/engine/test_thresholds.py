"""Selection by magnitude against a stable NumPy sort.

`magnitude` drops the smallest deltas, `breadcrumbs` with nothing to drop from the bottom the
largest, and the reference's arithmetic asks for the k-th smallest.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergegrid.engine import thresholds as selection
from mergegrid.engine.engine import EngineOptions
from mergegrid.sparsifiers.breadcrumbs import Breadcrumbs
from mergegrid.sparsifiers.magnitude import Magnitude

SMALL = EngineOptions(threads=3, chunk_size=1 << 16)
SCOPES = ["global", "per_tensor"]
rates = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
values = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 3e38]),
)
models = st.lists(st.lists(values, min_size=1, max_size=30), min_size=1, max_size=4)


def arrays(lists):
    return {str(i): np.array(each, dtype=np.float32) for i, each in enumerate(lists)}


def order(flat):
    """Oracle: places by magnitude, of equals the later first."""
    return flat.size - 1 - np.argsort(np.abs(flat[::-1]), kind="stable")


def without(tensors, scope, dropped):
    """Every tensor without the places that `dropped` names of a flat group."""
    groups = [list(tensors)] if scope == "global" else [[name] for name in tensors]
    left = {}
    for group in groups:
        flat = np.concatenate([tensors[name] for name in group])
        flat[dropped(flat)] = 0
        ends = np.cumsum([tensors[name].size for name in group])[:-1]
        left |= dict(zip(group, np.split(flat, ends), strict=True))
    return left


def smallest(rate):
    return lambda flat: order(flat)[: round(rate * flat.size)]


def largest(rate):
    return lambda flat: order(flat)[flat.size - round(rate * flat.size) :]


def up_to_the_kth(rate):
    def places(flat):
        rank = int(rate * flat.size)
        magnitudes = np.abs(flat)
        return magnitudes <= (np.sort(magnitudes)[rank - 1] if rank else -1)

    return places


@pytest.fixture(scope="module", params=["sorted", "counted"])
def left(sparsify, request):
    """What a sparsifier leaves of deltas, in small runs that several threads go through.

    Few deltas are sorted; here they are also counted, as many are.
    """

    def deltas(spec, tensors):
        zeros = {name: np.zeros_like(each) for name, each in tensors.items()}
        return sparsify(spec, zeros, tensors, options=SMALL)[0]

    with pytest.MonkeyPatch.context() as patched:
        if request.param == "counted":
            patched.setattr("mergegrid.engine.thresholds._FEW", 0)
        yield deltas


def same(got, wanted):
    return all(np.array_equal(got[name], each) for name, each in wanted.items())


@pytest.mark.parametrize("scope", SCOPES)
@given(lists=models, rate=rates)
@settings(deadline=None, max_examples=60)
def test_the_smallest_are_those_that_a_sort_puts_first(left, scope, lists, rate):
    tensors = arrays(lists)
    wanted = without(tensors, scope, smallest(rate))
    assert same(left(Magnitude(rate=rate, scope=scope), tensors), wanted)


@pytest.mark.parametrize("scope", SCOPES)
@given(lists=models, rate=rates.filter(lambda rate: rate < 1))
@settings(deadline=None, max_examples=60)
def test_the_largest_are_those_that_a_sort_puts_last(left, scope, lists, rate):
    tensors = arrays(lists)
    wanted = without(tensors, scope, largest(rate))
    assert same(left(Breadcrumbs(rate=rate, largest=rate, scope=scope), tensors), wanted)


@pytest.mark.parametrize("scope", SCOPES)
@given(lists=models, rate=rates)
@settings(deadline=None, max_examples=60)
def test_the_kth_smallest_is_the_kth_of_a_sort(left, scope, lists, rate):
    tensors = arrays(lists)
    wanted = without(tensors, scope, up_to_the_kth(rate))
    spec = Magnitude(rate=rate, scope=scope, arithmetic="reference")
    assert same(left(spec, tensors), wanted)


@given(
    counts=st.lists(st.integers(1, 200_000), min_size=1, max_size=3),
    distinct=st.sampled_from([1, 2, 3, 50, 1 << 24]),
    rate=rates,
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=20)
def test_equals_are_told_apart_by_place_across_runs_and_tensors(left, counts, distinct, rate, seed):
    random = np.random.default_rng(seed)
    tensors = {
        str(i): (random.integers(1, distinct + 1, count) * random.choice([-1, 1], count)).astype(
            np.float32
        )
        for i, count in enumerate(counts)
    }
    for scope in SCOPES:
        wanted = without(tensors, scope, smallest(rate))
        assert same(left(Magnitude(rate=rate, scope=scope), tensors), wanted)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("rate", [0.0, 0.29, 0.5, 0.9, 1.0])
def test_exactly_the_rounded_share_is_dropped_even_when_all_values_are_equal(left, scope, rate):
    tensors = {"a": np.ones(70_000, np.float32), "b": -np.ones(150_001, np.float32)}
    cut = left(Magnitude(rate=rate, scope=scope), tensors)
    dropped = [int((cut[name] == 0).sum()) for name in tensors]
    if scope == "global":
        assert sum(dropped) == round(rate * 220_001)
    else:
        assert dropped == [round(rate * 70_000), round(rate * 150_001)]


def test_of_equals_the_first_are_kept_by_tensor_and_then_by_index(left):
    tensors = {"a": np.ones(70_000, np.float32), "b": -np.ones(70_000, np.float32)}
    cut = left(Magnitude(rate=0.25, scope="global"), tensors)
    assert (cut["a"] == 1).all()
    assert (cut["b"][:35_000] == -1).all()
    assert (cut["b"][35_000:] == 0).all()


def test_what_is_kept_is_kept_to_the_bit_and_what_is_dropped_is_zero(left):
    values = np.array([3e-45, -1e-45, -3e38, 3e38, 0.5], np.float32)
    cut = left(Magnitude(rate=0.4), {"a": values})["a"]
    assert cut.view(np.uint32).tolist() == [0, 0, *values[2:].view(np.uint32).tolist()]


def deltas_that_mislead(kind, count):
    """Values whose first elements, in every chunk, say little of the rest, or much."""
    random = np.random.default_rng(0)
    normal = random.standard_normal(count).astype(np.float32)
    blocks = np.arange(count) % (1 << 16)
    return {
        "normal": normal,
        "few distinct": np.round(normal * 8) / 8,
        "in bfloat16": (normal.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
        "rising": np.linspace(1e-6, 1, count, dtype=np.float32),
        "large first": np.where(blocks < 1 << 14, 1000 * normal, normal),
        "small first": np.where(blocks < 1 << 14, normal / 1000, normal),
        "zeros first": np.where(blocks < 1 << 14, 0, normal),
        "one value but one": np.where(np.arange(count) == 77, 2, 1),
        "mostly zero": np.where(random.random(count) < 0.95, 0, normal),
        "of all sizes": normal * np.float32(10) ** random.integers(-30, 30, count),
    }[kind].astype(np.float32)


@pytest.mark.parametrize(
    "kind",
    [
        *("normal", "few distinct", "in bfloat16", "rising", "large first", "small first"),
        *("zeros first", "one value but one", "mostly zero", "of all sizes"),
    ],
)
def test_millions_are_cut_exactly_however_they_lie(left, kind):
    flat = deltas_that_mislead(kind, 1_300_000)
    tensors = {"a": flat[:1_100_000], "b": flat[1_100_000:]}
    places = order(flat)
    for rate in (0.001, 0.5, 0.9, 0.9999):
        expected = flat.copy()
        expected[places[: round(rate * flat.size)]] = 0
        cut = left(Magnitude(rate=rate, scope="global"), tensors)
        assert np.array_equal(np.concatenate([cut["a"], cut["b"]]), expected)


@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_a_large_tensor_is_cut_exactly_by_itself(left, rate):
    flat = deltas_that_mislead("few distinct", 1_300_000)
    cut = left(Magnitude(rate=rate), {"a": flat})
    assert same(cut, without({"a": flat}, "per_tensor", smallest(rate)))
    reference = left(Magnitude(rate=rate, arithmetic="reference"), {"a": flat})
    assert same(reference, without({"a": flat}, "per_tensor", up_to_the_kth(rate)))


def test_no_more_is_kept_of_a_sample_than_was_asked_for():
    magnitudes = np.arange(1 << 16, dtype=np.uint32)
    chunk = SimpleNamespace(ops=SimpleNamespace(magnitudes=lambda _: magnitudes))
    asked = next(selection._near_a_sample(1 << 39, 1 << 40, lambda _: None))
    drawn = asked.measure(chunk)
    assert len(drawn) == asked.sample
    assert drawn.base is None
