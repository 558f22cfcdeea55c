"""Models with NaN or infinities: one error that names the element, and no warning beside it."""

import numpy as np
import pytest

from mergegrid.errors import CheckpointError
from mergegrid.methods import METHODS

NAME = "model.layers.0.mlp.up_proj.weight"
KINDS = [kind for kind, method in METHODS.items() if not method.needs_statistics]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_the_element_is_named_without_warnings(merge, kind, value):
    base, *deltas = np.random.default_rng(0).normal(size=(3, 24, 16)).astype("f4")
    experts = {name: {NAME: base + delta / 100} for name, delta in zip("ab", deltas, strict=True)}
    experts["b"][NAME].flat[5] = value
    with pytest.raises(CheckpointError, match=rf"expert b holds {value} in {NAME} \(element 5\)"):
        merge({NAME: base}, experts, METHODS[kind]().for_expert("a"))
