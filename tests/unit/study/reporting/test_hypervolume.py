"""Volumes of scores against a count of points, and by hand."""

import numpy as np
import pytest

from mergegrid.study.reporting.hypervolume import added_volume, volume


def counted(points, steps=60):
    """The share of a fine grid that lies below one of the points."""
    axis = (np.arange(steps) + 0.5) / steps
    grid = np.stack(np.meshgrid(*[axis] * points.shape[1], indexing="ij"), axis=-1)
    return (grid[..., None, :] <= points).all(axis=-1).any(axis=-1).mean()


@pytest.mark.parametrize(("models", "tasks"), [(1, 1), (2, 2), (5, 2), (4, 3), (7, 3)])
def test_a_volume_is_the_share_of_points_below(models, tasks):
    points = np.random.default_rng(models).integers(0, 61, (models, tasks)) / 60
    assert volume(points) == pytest.approx(counted(points), abs=1e-12)
    # Models that reach no more, and the order, count for nothing.
    more = np.concatenate([points[::-1], points / 2, points])
    assert volume(more) == pytest.approx(volume(points), abs=1e-12)


@pytest.mark.parametrize(
    ("merge", "added"),
    [
        # As good as the best everywhere: all but the experts' 0.2 * 0.5 + 0.8 * 0.25 + ...
        ([0.8, 0.5], 1 - (0.5 + 0.25 - 0.125)),
        # By hand: (0.75, 0.75) less the boxes (0.75, 0.5) and (0.25, 0.75).
        ([0.6, 0.375], 0.5625 - (0.375 + 0.1875 - 0.125)),
        # An expert is better everywhere.
        ([0.7, 0.2], 0.0),
        # A score below 0 reaches nothing.
        ([-0.3, 0.5], 0.0),
        # Better than every expert.
        ([1.6, 1.0], 4 - 0.625),
    ],
)
def test_what_a_merge_adds_to_two_experts(merge, added):
    # In shares of the best: (1, 0.5) and (0.25, 1).
    experts = np.array([[0.8, 0.25], [0.2, 0.5]])
    assert added_volume(np.array(merge), experts) == pytest.approx(added, abs=1e-12)
    total = volume(np.maximum(np.vstack([experts, merge]) / [0.8, 0.5], 0))
    assert added == pytest.approx(total - 0.625, abs=1e-12)
