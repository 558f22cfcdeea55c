"""Selection by magnitude against a stable NumPy sort."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.merging.selection import cut_smallest

values = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 3e38]),
)


def largest(tensors, rate):
    """Oracle: sort by magnitude, equals by position; drop the first round(p * n) of the order."""
    flat = np.concatenate([np.abs(tensor.numpy()).ravel() for tensor in tensors.values()])
    # Of equals the later one is dropped first.
    order = np.lexsort((-np.arange(len(flat)), flat))
    mask = np.ones(len(flat), dtype=bool)
    mask[order[: round(rate * len(flat))]] = False
    return mask


def kept(tensors, rate, scope):
    cuts = cut_smallest(tensors, tensors.__getitem__, rate, scope)
    return np.concatenate(
        [cuts[name].keep(tensor).numpy().ravel() for name, tensor in tensors.items()]
    )


@given(
    lists=st.lists(st.lists(values, min_size=1, max_size=30), min_size=1, max_size=4),
    rate=st.floats(0, 1),
)
def test_global_cut_equals_a_sort_of_the_flattened_model(lists, rate):
    tensors = {str(i): torch.tensor(each, dtype=torch.float32) for i, each in enumerate(lists)}
    assert np.array_equal(kept(tensors, rate, "global"), largest(tensors, rate))


@given(
    lists=st.lists(st.lists(values, min_size=1, max_size=30), min_size=1, max_size=4),
    rate=st.floats(0, 1),
)
def test_per_tensor_cut_equals_a_sort_of_each_tensor(lists, rate):
    tensors = {str(i): torch.tensor(each, dtype=torch.float32) for i, each in enumerate(lists)}
    expected = [largest({name: tensor}, rate) for name, tensor in tensors.items()]
    assert np.array_equal(kept(tensors, rate, "per_tensor"), np.concatenate(expected))


@pytest.mark.parametrize("rate", [0.0, 0.29, 0.5, 0.9, 1.0])
def test_exactly_the_rounded_share_is_dropped_even_when_all_values_are_equal(rate):
    tensors = {"a": torch.ones(10, 7), "b": torch.ones(30)}
    for scope in ("global", "per_tensor"):
        assert (~kept(tensors, rate, scope)).sum() == round(rate * 70) + round(rate * 30)


def test_a_million_values_are_cut_exactly():
    tensor = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(kept({"a": tensor}, 0.9, "global"), largest({"a": tensor}, 0.9))
