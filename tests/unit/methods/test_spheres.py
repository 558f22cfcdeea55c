"""Karcher mean and multislerp against NumPy, worked examples and the properties that they have."""

import numpy as np
import pytest

from mergegrid.errors import ConfigError
from mergegrid.methods.karcher import Karcher
from mergegrid.methods.multislerp import Multislerp

NAMES = ("chat", "code", "math")


def vectors(*rows):
    return {name: {"w": np.array(row, np.float32)} for name, row in zip("abcd", rows, strict=False)}


def turned(*degrees):
    return [[np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))] for angle in degrees]


def units(experts, name):
    rows = np.stack([experts[expert][name].ravel() for expert in NAMES]).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    return rows / lengths[:, None], lengths


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 0], [0, 3]], [1.414214, 1.414214]),
        (turned(0, 0, 90), turned(30)[0]),
        (turned(10, 50, -20, 80), turned(30)[0]),
        # A zero vector has no direction.
        ([[2, 0], [0, 0]], [2, 0]),
        # These cancel out.
        ([[1, 2], [-1, -2]], [0, 0]),
    ],
)
def test_karcher_worked_examples(merge, rows, expected):
    merged = merge({"w": np.zeros(2, np.float32)}, vectors(*rows), Karcher())
    np.testing.assert_allclose(merged["w"], expected, atol=1e-6)


def test_karcher_is_where_the_tangents_to_the_experts_cancel_out(merge, base, experts):
    far = {e: {n: experts[e][n] + 20 * (experts[e][n] - base[n]) for n in base} for e in NAMES}
    merged = merge(base, far, Karcher())
    for name in base:
        directions, lengths = units(far, name)
        mean = merged[name].ravel().astype(np.float64)
        np.testing.assert_allclose(np.linalg.norm(mean), lengths.mean(), rtol=1e-6)
        mean /= np.linalg.norm(mean)
        along = directions @ mean
        angles = np.arccos(along)
        assert angles.min() > 0.1
        tangents = (angles / np.sin(angles))[:, None] * (directions - along[:, None] * mean)
        assert np.linalg.norm(tangents.sum(axis=0)) < 1e-5


def test_multislerp_is_the_mean_direction_with_the_mean_length(merge, base, experts):
    weights = {"chat": 0.5, "code": 2, "math": 1}
    merged = merge(base, experts, Multislerp(weights=weights))
    shares = np.array(list(weights.values())) / 3.5
    for name in base:
        directions, lengths = units(experts, name)
        mean = shares @ directions
        expected = mean / np.linalg.norm(mean) * (shares @ lengths)
        np.testing.assert_allclose(merged[name].ravel(), expected, rtol=1e-5, atol=1e-8)


def test_multislerp_of_deltas_leaves_the_base_where_it_is(merge, base, experts):
    zero = {name: np.zeros_like(tensor) for name, tensor in base.items()}
    deltas = {e: {n: experts[e][n] - base[n] for n in base} for e in NAMES}
    merged = merge(base, experts, Multislerp(vectors="deltas"))
    moved = merge(zero, deltas, Multislerp())
    for name in base:
        np.testing.assert_allclose(merged[name] - base[name], moved[name], atol=1e-8)


def test_multislerp_of_vectors_that_cancel_out_is_their_mean(merge):
    merged = merge({"w": np.zeros(2, np.float32)}, vectors([1, 2], [-3, -6]), Multislerp())
    assert merged["w"].tolist() == [-1, -2]


@pytest.mark.parametrize("method", [Karcher(), Multislerp(), Multislerp(vectors="deltas")])
def test_equal_experts_are_returned(merge, base, experts, method):
    same = {f"copy{number}": experts["math"] for number in range(3)}
    for name, tensor in merge(base, same, method).items():
        np.testing.assert_allclose(tensor, experts["math"][name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", [Karcher(), Multislerp()])
def test_one_expert_is_refused(merge, base, experts, method):
    with pytest.raises(ConfigError, match="merges at least 2 experts"):
        merge(base, {"math": experts["math"]}, method)
