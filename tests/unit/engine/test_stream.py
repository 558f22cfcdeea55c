"""What models a pass takes, and what it says of those that it cannot merge."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.engine.engine import Engine, EngineOptions
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.engine.ops.torch_operations import TorchOperations
from mergegrid.errors import CheckpointError
from mergegrid.methods.average import Average
from mergegrid.methods.iso_cts import IsoCts
from mergegrid.methods.knots import Knots
from mergegrid.methods.model_stock import ModelStock
from mergegrid.methods.sce import Sce
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.methods.tsv_m import TsvM
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.della import Della
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.rates import Rule
from mergegrid.sparsifiers.tall import Tall

RULES = (Rule(tensors="norms", rate=0), Rule(tensors="layers 1", rate=0.7))


@pytest.mark.parametrize("seed", range(3))
def test_models_may_mix_dtypes_and_tensors_of_odd_sizes(tmp_path, stream, recipe_of, seed):
    random = np.random.default_rng(seed)
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    shapes = {f"t{n}": (int(random.integers(1, 12)),) for n in range(30)} | {"t99": (70_001,)}
    models = {}
    for who in ("base", "a", "b"):
        models[who] = {
            name: torch.from_numpy(random.standard_normal(shape)).to(dtypes[random.integers(3)])
            for name, shape in shapes.items()
        }
        (tmp_path / who).mkdir()
        save_file(models[who], tmp_path / who / "model.safetensors")
    engine = Engine(
        open_checkpoint(tmp_path / "base"),
        {name: open_checkpoint(tmp_path / name) for name in "ab"},
    )

    class Mixed:
        """Takes every tensor in the base's dtype."""

        infos = engine.base.infos

        def __init__(self):
            self.flat = {n: np.empty(i.count, i.dtype.numpy) for n, i in self.infos.items()}

        def write(self, name, start, stored):
            self.flat[name][start : start + stored.size] = stored

    specs = [TaskArithmetic(), Ties(trim=0.5, scope="per_tensor"), ModelStock(), Average()]
    asked = [recipe_of(spec, "ab") for spec in specs]
    sinks = [Mixed() for _ in specs]
    engine.stream(list(zip(map(engine.bind, asked), sinks, strict=True)))
    exact = stream(engine, asked)
    for sink, floats in zip(sinks, exact, strict=True):
        for name, values in floats.items():
            rounded = torch.from_numpy(values).to(models["base"][name].dtype)
            assert sink.flat[name].tobytes() == rounded.view(torch.uint8).numpy().tobytes()
    for name in shapes:
        base, one, other = (models[who][name].float().numpy() for who in ("base", "a", "b"))
        assert np.array_equal(exact[0][name], base + ((one - base) + (other - base)))
        mean = (one.astype(np.float64) + other) / 2
        assert np.array_equal(exact[3][name], mean.astype(np.float32))


@pytest.mark.parametrize("method", [Ties(trim=0.9), Sce(select=0.1)], ids=lambda m: m.kind)
@pytest.mark.parametrize(
    "sparsifier", [Della(rate=0.5), Dare(rate=0.5, rules=RULES)], ids=lambda s: s.kind
)
def test_selection_in_large_models_sees_what_a_sparsifier_leaves(
    merge, sparsify, method, sparsifier
):
    random = np.random.default_rng(0)
    shapes = {"layers.0.mlp.weight": (1500, 1001), "layers.1.mlp.bias": (150_001,)}
    base = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    experts = {
        who: {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        for who in ("a", "b")
    }
    left = {who: sparsify(sparsifier, base, experts[who], who)[0] for who in experts}
    merged, expected = merge(base, experts, method, sparsifier), merge(base, left, method)
    assert all(np.array_equal(merged[name], expected[name]) for name in shapes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("who", ["math", "base"])
@pytest.mark.parametrize("place", [0, 3, 149_999])
def test_a_damaged_model_is_named_with_tensor_and_element(merge, who, value, place):
    zeros = {"a.weight": np.zeros(10), "b.weight": np.zeros((50, 3000))}
    damaged = {name: each.copy() for name, each in zeros.items()}
    damaged["b.weight"].flat[place] = value
    models = {"base": zeros, "code": zeros, "math": zeros, who: damaged}
    base = models.pop("base")
    owner = "the base" if who == "base" else "expert math"
    message = (
        rf"{owner} holds {value} in b\.weight \(element {place}\); .*download or train it again"
    )
    for chunk_size in (GRAIN, 4 * GRAIN):
        with pytest.raises(CheckpointError, match=message):
            merge(
                base,
                models,
                TaskArithmetic(),
                options=EngineOptions(threads=2, chunk_size=chunk_size),
            )


@pytest.mark.parametrize("operations", [CpuOperations, partial(TorchOperations, "cpu")])
@pytest.mark.parametrize(
    ("method", "sparsifier"),
    [
        (TaskArithmetic(), DropOnly(rate=1)),
        (TaskArithmetic(), Della(rate=0.9)),
        (Ties(trim=0.9), DropOnly(rate=0.99)),
        (IsoCts(), DropOnly(rate=0.999)),
        (Knots(), Tall()),
        (TsvM(), Tall()),
    ],
    ids=["all dropped", "in rows", "outvoted", "iso_cts", "knots", "tsv_m"],
)
def test_damage_is_found_even_where_it_is_dropped(merge, operations, method, sparsifier):
    base = {"a": np.zeros(7), "b": np.zeros((300, 400))}
    for place in (0, 77_777):
        math = {name: each + 1 for name, each in base.items()}
        math["b"].flat[place] = np.nan
        code = {name: each - 1 for name, each in base.items()}
        with pytest.raises(CheckpointError, match=rf"expert math holds nan in b \(element {place}"):
            merge(
                base,
                {"math": math, "code": code},
                method,
                sparsifier,
                options=EngineOptions(threads=2, operations=operations),
            )


def test_what_float16_cannot_hold_is_said_to_be_that(merge):
    base, expert = {"w": np.zeros(5)}, {"w": np.array([1, 2, 3, 4e4, 5])}
    expected = (
        "the merged w has values that float16 cannot hold; "
        "lower the coefficient or the rate, or write float32"
    )
    with pytest.raises(CheckpointError, match=expected):
        merge(base, {"math": expert}, TaskArithmetic(coefficient=2), dtype="float16")
    merged = merge(base, {"math": expert}, TaskArithmetic(coefficient=2), dtype="bfloat16")
    assert merged["w"].size == 5


def test_an_overflow_of_float32_is_no_damaged_model(merge):
    base, expert = {"w": np.zeros(2)}, {"w": np.array([1, 3e38])}
    with pytest.raises(CheckpointError, match="merged w has values that float32 cannot hold"):
        merge(base, {"math": expert}, TaskArithmetic(coefficient=2))
