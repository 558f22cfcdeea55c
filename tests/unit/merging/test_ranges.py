import numpy as np
import pytest
import torch

from mergegrid.merging.deltas import ExpertDeltas
from mergegrid.merging.ranges import delta_ranges


def test_sizes_of_a_delta_are_those_numpy_finds(base, experts):
    expert = ExpertDeltas("math", base, experts["math"])
    table = delta_ranges(expert).set_index("tensor")
    flat = {name: expert.delta(name).abs().numpy().ravel() for name in expert.names}
    flat["all"] = np.concatenate(list(flat.values()))
    for name, values in flat.items():
        row = table.loc[name]
        assert row["n"] == values.size
        assert row["mean"] == pytest.approx(values.mean())
        assert row["rms"] == pytest.approx(np.sqrt((values**2).mean()))
        assert row["max"] == values.max()
        assert row["share_below_0.002"] == (values < 0.002).mean()
        for quantile, share in {"q10": 0.1, "q50": 0.5, "q99": 0.99}.items():
            exact = np.quantile(values, share, method="inverted_cdf")
            assert row[quantile] == pytest.approx(exact, rel=0.008)


def test_an_unchanged_tensor_has_only_zeros():
    table = delta_ranges(ExpertDeltas("e", {"w": torch.ones(5)}, {"w": torch.ones(5)}))
    assert table["max"].tolist() == table["q50"].tolist() == [0.0, 0.0]
    assert table["share_below_0.002"].tolist() == [1.0, 1.0]
