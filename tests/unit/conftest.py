"""Small models, and ways to merge them that need no files."""

import math
from typing import ClassVar, Literal

import numpy as np
import pytest

from mergegrid.checkpoints.checkpoint import InMemory, TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.engine.engine import Engine, EngineOptions
from mergegrid.engine.masks import mask_key, threshold
from mergegrid.engine.method import Method
from mergegrid.methods.average import Average
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.none import NoSparsifier

SHAPES = {"embedding.weight": (16, 8), "layer.bias": (8,), "layer.weight": (8, 8)}


class Memory:
    """A sink that keeps what is written."""

    def __init__(self, infos, dtype):
        dtype = DTYPES[dtype]
        self.infos = {name: TensorInfo(info.shape, dtype) for name, info in infos.items()}
        self._flat = {name: np.empty(info.count, dtype.numpy) for name, info in infos.items()}

    def write(self, name, start, stored):
        self._flat[name][start : start + stored.size] = stored

    @property
    def tensors(self):
        return {name: self._flat[name].reshape(self.infos[name].shape) for name in self.infos}


def normal(seed, scale, shapes=SHAPES):
    random = np.random.default_rng(seed)
    return {
        name: (random.standard_normal(shape) * scale).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="session")
def base():
    return normal(0, 0.02)


@pytest.fixture(scope="session")
def experts(base):
    deltas = {name: normal(seed, 0.002) for seed, name in enumerate(["math", "code", "chat"], 1)}
    return {
        name: {key: base[key] + delta for key, delta in each.items()}
        for name, each in deltas.items()
    }


@pytest.fixture(scope="session")
def open_engine():
    """Make an engine of arrays by name."""

    def engine(base, experts, statistics=None, options=None):
        return Engine(
            InMemory(base),
            {name: InMemory(expert) for name, expert in experts.items()},
            {name: InMemory(each) for name, each in (statistics or {}).items()},
            options or EngineOptions(),
        )

    return engine


@pytest.fixture(scope="session")
def stream():
    """Merge recipes in one pass of an engine into arrays of a dtype, by name of tensor."""

    def run(engine, recipes, dtype="float32"):
        sinks = [Memory(engine.base.infos, dtype) for _ in recipes]
        engine.stream(list(zip(map(engine.bind, recipes), sinks, strict=True)))
        return [sink.tensors for sink in sinks]

    return run


@pytest.fixture(scope="session")
def recipe_of():
    """A recipe of a method, experts by name, and perhaps a sparsifier."""

    def recipe(method, names, sparsifier=None):
        return Recipe(
            family="toy",
            experts=tuple(names),
            method=method,
            sparsifier=sparsifier or NoSparsifier(),
        )

    return recipe


@pytest.fixture(scope="session")
def merge(open_engine, stream, recipe_of):
    """Merge arrays by name."""

    def run(
        base,
        experts,
        method=None,
        sparsifier=None,
        names=None,
        dtype="float32",
        statistics=None,
        options=None,
    ):
        recipe = recipe_of(method or Average(), names or experts, sparsifier)
        (merged,) = stream(open_engine(base, experts, statistics, options), [recipe], dtype)
        return merged

    return run


@pytest.fixture(scope="session")
def method_of():
    """Make a method of functions, which take what its own methods take."""

    def method(merge, prepasses=lambda _: (), whole_rows=False):
        functions, rows = (merge, prepasses), whole_rows

        class OfFunctions(Method):
            kind: Literal["of_functions"] = "of_functions"
            whole_rows: ClassVar[bool] = rows

            def merge(self, chunk):
                return functions[0](chunk)

            def prepasses(self, inputs):
                return functions[1](inputs)

        return OfFunctions()

    return method


@pytest.fixture(scope="session")
def sparsify(merge, method_of):
    """What a sparsifier leaves of one expert: its deltas, and its weights."""

    def run(spec, base, expert, name="math", options=None):
        deltas_alone = method_of(lambda chunk: chunk.deltas[0])
        deltas = merge(base, {name: expert}, deltas_alone, sparsifier=spec, options=options)
        return deltas, merge(base, {name: expert}, sparsifier=spec, options=options)

    return run


@pytest.fixture(scope="session")
def words():
    """Random words of a mask in NumPy, from the definition of Philox4x32-10."""

    def draw(seed, expert, tensor, count):
        low = np.uint64(0xFFFFFFFF)
        half = np.uint64(32)
        k0, k1, c2, c3 = map(np.uint64, mask_key(seed, expert, tensor))
        block = np.arange(math.ceil(count / 4), dtype=np.uint64)
        x0, x1 = block & low, block >> half
        x2, x3 = np.full_like(block, c2), np.full_like(block, c3)
        for _ in range(10):
            p0, p1 = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
            x0, x1, x2, x3 = (p1 >> half) ^ x1 ^ k0, p1 & low, (p0 >> half) ^ x3 ^ k1, p0 & low
            k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
        return np.stack([x0, x1, x2, x3], axis=1).ravel()[:count]

    return draw


@pytest.fixture(scope="session")
def keeps(words):
    """Which elements of a tensor the mask of a spec keeps."""

    def mask(spec, expert, tensor, shape, rate=None):
        drawn = words(spec.seed, expert, tensor, math.prod(shape))
        return (drawn < threshold(spec.rate if rate is None else rate)).reshape(shape)

    return mask
