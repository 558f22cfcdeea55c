"""Values by layer and module: their notation, and the number that every tensor gets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.layers import layer_of
from mergegrid.engine.engine import EngineOptions
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.engine.sparsifier import Sparsifier
from mergegrid.engine.tensors import Tensors
from mergegrid.engine.values import ByTensor, Gradient
from mergegrid.errors import ConfigError
from mergegrid.methods.average import Average
from mergegrid.methods.consensus import Consensus
from mergegrid.methods.magmax import MagMax
from mergegrid.methods.multislerp import Multislerp
from mergegrid.methods.nuslerp import NuSlerp
from mergegrid.methods.ram import Ram
from mergegrid.methods.regmean import RegMean
from mergegrid.methods.sce import Sce
from mergegrid.methods.slerp import Slerp
from mergegrid.methods.tall_mask import TallMask
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.sparsifiers.breadcrumbs import Breadcrumbs
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.della import Della
from mergegrid.sparsifiers.drop_only import DropOnly
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.masked_finetuned import MaskedFinetuned
from mergegrid.sparsifiers.rates import Rule
from mergegrid.sparsifiers.tall import Tall

LAYERS = 4
#: A gradient whose numbers differ in all layers, and a rule inside it.
GRADIENT = {"gradient": [0.2, 0.8]}
VALUE = {
    "rules": [
        {"tensors": "*.mlp.*", "value": 0.9},
        {"tensors": "layers 2-3", "value": {"gradient": [0.5, 0.3, 0.7]}},
    ],
    "default": GRADIENT,
}


def names_of(layers):
    inner = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")
    names = [f"model.layers.{layer}.{name}" for layer in range(layers) for name in inner]
    return ["model.embed_tokens.weight", *names, "model.norm.weight", "lm_head.weight"]


def tensors_of(names):
    return Tensors({name: TensorInfo((2,), DTYPES["float32"]) for name in names})


def models(shape=(6, 5)):
    """A base and two experts with layers, of tensors of a shape."""
    random = np.random.default_rng(0)
    draw = lambda scale: {  # noqa: E731
        name: (random.standard_normal(shape) * scale).astype(np.float32)
        for name in names_of(LAYERS)
    }
    base, math, code = draw(1.0), draw(0.1), draw(0.1)
    experts = {"math": math, "code": code}
    return base, {
        name: {key: base[key] + delta for key, delta in each.items()}
        for name, each in experts.items()
    }


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.up_proj.weight", ("model.layers", 3)),
        ("layers.12.bias", ("layers", 12)),
        ("bert.encoder.layer.11.output.dense.weight", ("bert.encoder.layer", 11)),
        ("transformer.h.0.attn.c_attn.weight", ("transformer.h", 0)),
        ("decoder.block.5.layer.1.DenseReluDense.wi.weight", ("decoder.block", 5)),
        ("model.layers.7.block_sparse_moe.experts.2.w1.weight", ("model.layers", 7)),
        ("transformer.blocks.9.ffn.up_proj.weight", ("transformer.blocks", 9)),
        ("model.embed_tokens.weight", None),
        ("model.norm.weight", None),
        ("model.my_layers.3.weight", None),
        ("classifier.layers.weight", None),
    ],
)
def test_a_layer_is_the_first_number_after_a_name_of_layers(name, layer):
    assert layer_of(name) == layer


def test_a_gradient_reaches_from_the_first_layer_to_the_last():
    tensors = tensors_of(names_of(5))
    # Measured with mergekit: [1, 0.7, 0.1] over five layers; 1 for embeddings, norm and head.
    value = Gradient(gradient=(1, 0.7, 0.1))
    numbers = [tensors.number(value, f"model.layers.{n}.mlp.up_proj.weight") for n in range(5)]
    assert numbers == pytest.approx([1, 0.85, 0.7, 0.4, 0.1], abs=1e-15)
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert tensors.number(value, name) == 1


@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=6),
    st.integers(1, 9),
)
def test_a_gradient_interpolates_at_equal_distances(numbers, layers):
    tensors = tensors_of(names_of(layers))
    value = Gradient(gradient=tuple(numbers))
    for layer in range(layers):
        t = layer / (layers - 1) if layers > 1 else 1
        expected = np.interp(t * (len(numbers) - 1), range(len(numbers)), numbers)
        name = f"model.layers.{layer}.self_attn.q_proj.weight"
        assert tensors.number(value, name) == pytest.approx(expected, abs=1e-12)
    ends = [tensors.number(value, f"model.layers.{n}.mlp.up_proj.weight") for n in (0, layers - 1)]
    assert ends == ([numbers[0], numbers[-1]] if layers > 1 else [numbers[-1]] * 2)


def test_encoder_and_decoder_are_two_stacks():
    names = [f"encoder.block.{n}.layer.0.w" for n in range(3)]
    names += [f"decoder.block.{n}.layer.0.w" for n in range(5)]
    tensors = tensors_of([*names, "shared.weight"])
    depths = [tensors.depth(name) for name in names]
    assert depths == [0, 0.5, 1, 0, 0.25, 0.5, 0.75, 1]


def test_the_first_rule_that_covers_a_tensor_counts():
    value = ByTensor.model_validate(VALUE)
    tensors = tensors_of(names_of(LAYERS))
    assert tensors.number(value, "model.layers.2.mlp.up_proj.weight") == 0.9
    assert tensors.number(value, "model.layers.3.self_attn.q_proj.weight") == 0.7
    assert tensors.number(value, "model.layers.1.self_attn.q_proj.weight") == pytest.approx(0.4)
    assert tensors.number(value, "lm_head.weight") == 0.2


PARTS = [
    (Average, "weights", True),
    (TaskArithmetic, "coefficient", False),
    (TaskArithmetic, "coefficients", True),
    (Ties, "trim", False),
    (Ties, "coefficient", False),
    (Sce, "select", False),
    (Slerp, "weights", True),
    (Slerp, "t", False),
    (Multislerp, "weights", True),
    (Consensus, "coefficient", False),
    (Consensus, "threshold", False),
    (Consensus, "thresholds", True),
    (MagMax, "coefficient", False),
    (TallMask, "threshold", False),
    (NuSlerp, "weights", True),
    (Ram, "threshold", False),
    (Dare, "rescale", False),
    (Dare, "rescales", True),
    (Dare, "rate", False),
    (Dare, "rates", True),
    (DropOnly, "rate", False),
    (MaskedFinetuned, "rate", False),
    (Magnitude, "rate", False),
    (Magnitude, "rates", True),
    (Della, "rate", False),
    (Della, "window", False),
    (Della, "windows", True),
    (Breadcrumbs, "rate", False),
    (Breadcrumbs, "largest", False),
    (Breadcrumbs, "largest_of", True),
    (Tall, "threshold", False),
    (Tall, "thresholds", True),
]
OTHERS = {
    Ties: {"scope": "per_tensor"},
    Magnitude: {"rescale": True},
    Della: {"rate": 0.5},
    Breadcrumbs: {"rate": 0.9},
}


def settings(kind, field, value, by_expert):
    """A sparsifier or method with one value; of one expert alone where a field has one for each."""
    content = {"rate": 0.95} if kind in (Dare, Magnitude) else {}
    content |= {"expert": "math"} if kind is TallMask else {}
    content |= OTHERS.get(kind, {}) | {field: {"math": value} if by_expert else value}
    spec = kind.model_validate(content)
    return {"sparsifier" if issubclass(kind, Sparsifier) else "method": spec}


@pytest.mark.parametrize(("kind", "field", "by_expert"), PARTS, ids=lambda part: str(part))
def test_a_tensor_is_merged_as_if_its_number_were_that_of_all(merge, kind, field, by_expert):
    base, experts = models()
    if field == "t":
        del experts["code"]
    if "breadcrumbs" in str(kind) and field == "rate":
        value = {"gradient": [0.2, 0.8]}
    elif "largest" in field:
        value = {"gradient": [0.1, 0.5]}
    else:
        value = VALUE
    merged = merge(base, experts, **settings(kind, field, value, by_expert))
    parsed = getattr(settings(kind, field, value, by_expert).popitem()[1], field)
    parsed = parsed["math"] if by_expert else parsed
    tensors = tensors_of(base)
    numbers = {name: tensors.number(parsed, name) for name in base}
    assert len(set(numbers.values())) > 3
    alone = {
        number: merge(base, experts, **settings(kind, field, number, by_expert))
        for number in set(numbers.values())
    }
    for name, number in numbers.items():
        assert merged[name].tobytes() == alone[number][name].tobytes()
    assert any(
        merged[name].tobytes() != alone[number][name].tobytes() for number in alone for name in base
    )


@pytest.mark.parametrize("number", [1, 2, 7])
def test_threads_and_chunks_change_no_bit(merge, number):
    # Tensors of three chunks of the smallest size.
    base, experts = models((GRAIN // 64, 150))
    method = Ties.model_validate({"trim": VALUE, "coefficient": GRADIENT})
    sparsifier = Dare.model_validate({"rate": GRADIENT, "rates": {"math": VALUE}})
    options = EngineOptions(threads=number, chunk_size=GRAIN * (1 + number % 2))
    merged = merge(base, experts, method, sparsifier, options=options)
    expected = merge(base, experts, method, sparsifier)
    assert all(merged[name].tobytes() == expected[name].tobytes() for name in base)


@pytest.mark.parametrize("kind", [Magnitude, Breadcrumbs])
def test_tensors_of_one_share_are_cut_together(sparsify, kind):
    base, experts = models()
    value = {"rules": [{"tensors": "layers 0-1", "value": 0.25}], "default": 0.75}
    spec = kind.model_validate({"rate": value, "scope": "global"})
    deltas, _ = sparsify(spec, base, experts["math"])
    groups = [name.startswith(("model.layers.0.", "model.layers.1.")) for name in base]
    for inside, share in ((True, 0.25), (False, 0.75)):
        group = [name for name, here in zip(base, groups, strict=True) if here == inside]
        dropped = sum((deltas[name] == 0).sum() for name in group)
        assert abs(dropped - share * 30 * len(group)) <= 1  # Breadcrumbs rounds twice.
        one = {name: base[name] for name in group}
        alone, _ = sparsify(
            kind.model_validate({"rate": share, "scope": "global"}),
            one,
            {name: experts["math"][name] for name in group},
        )
        assert all(np.array_equal(alone[name], deltas[name]) for name in group)


def test_rules_of_rates_may_be_gradients(merge):
    base, experts = models()
    rule = Rule.model_validate({"tensors": "*.mlp.*", "rate": GRADIENT})
    merged = merge(base, experts, sparsifier=Dare(rate=0.5, rules=(rule,)))
    value = {"rules": [{"tensors": "*.mlp.*", "value": GRADIENT}], "default": 0.5}
    expected = merge(base, experts, sparsifier=Dare.model_validate({"rate": value}))
    assert all(np.array_equal(merged[name], expected[name]) for name in base)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            TaskArithmetic.model_validate(
                {"coefficient": {"rules": [{"tensors": "*.attn.*", "value": 1}], "default": 0}}
            ),
            r"task_arithmetic.coefficient: '\*.attn.\*' covers none of the 15 merged tensors, such",
        ),
        (
            Average.model_validate(
                {
                    "weights": {
                        "math": {
                            "rules": [{"tensors": "layers 4-9", "value": 1}],
                            "default": 0,
                        }
                    }
                }
            ),
            "average.weights: 'layers 4-9' covers none of the 15 merged tensors",
        ),
        (
            Dare(rate=0.5, rules=(Rule(tensors="*.bias", rate=0),)),
            r"dare.rules: '\*.bias' covers none of the 15 merged tensors",
        ),
        (
            Average.model_validate(
                {"weights": {"math": {"gradient": [1, 0]}, "code": {"gradient": [1, 0]}}}
            ),
            "average.weights of code, math sum to 0 for model.layers.3.",
        ),
        (
            TaskArithmetic.model_validate({"coefficients": {"math": -1}, "normalize": True}),
            "task_arithmetic.coefficients of code, math sum to 0 for ",
        ),
        (
            Breadcrumbs.model_validate({"rate": {"gradient": [0.5, 0.05]}, "largest": 0.1}),
            "largest = 0.1 exceeds the rate 0.05 of expert code in model.layers.3.",
        ),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_values_that_do_not_fit_the_tensors_are_refused(merge, spec, message):
    base, experts = models()
    part = "sparsifier" if "rate" in type(spec).model_fields else "method"
    with pytest.raises(ConfigError, match=message):
        merge(base, experts, **{part: spec})


def test_groups_may_be_empty_because_not_every_model_has_them(merge):
    base, experts = models()
    one, *others = (
        {name: each[name] for name in base if "head" not in name}
        for each in (base, *experts.values())
    )
    rule = Rule(tensors="head", rate=0)
    merged = merge(
        one, dict(zip(experts, others, strict=True)), sparsifier=Dare(rate=0.5, rules=(rule,))
    )
    assert set(merged) == set(one)


def test_a_gradient_needs_layers(merge, base, experts):
    with pytest.raises(ConfigError, match="is a gradient, but no tensor has the number of a layer"):
        merge(base, experts, TaskArithmetic(coefficient=Gradient(gradient=(0, 1))))


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (Ties, {"trim": {"gradient": []}}, "at least 1 item"),
        (Ties, {"trim": {"gradient": [0, 1.5]}}, "1.5: Input should be less than or equal to 1"),
        (Ties, {"trim": {"gradient": [0, True]}}, "expected a number, not true or false"),
        (Ties, {"trim": {"rules": [], "default": 0}}, "at least 1 item"),
        (Ties, {"trim": {"rules": [{"tensors": "norms", "value": 0}]}}, "default"),
        (Ties, {"trim": {"rules": [{"tensors": "norms", "value": 2}], "default": 0}}, "2: Input"),
        (Ties, {"trim": [0.1, 0.2]}, "valid number"),
        (Average, {"weights": {"a": {"gradient": [1, -1]}}}, "-1: Input should be greater than"),
        (Sce, {"select": {"gradient": [0, 1]}}, "0: Input should be greater than 0"),
        (RegMean, {"ridge": {"gradient": [0, -1]}}, "-1: Input should be greater than"),
    ],
)
def test_values_out_of_range_or_incomplete_are_refused(kind, content, message):
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(content)
