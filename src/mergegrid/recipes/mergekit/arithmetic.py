"""The sparsifier and the method that compute what a merge method of mergekit computes."""

from collections.abc import Callable
from typing import Any

from mergegrid.recipes.mergekit.inputs import Inputs
from mergegrid.recipes.mergekit.parameters import (
    Number,
    Setting,
    constant,
    mapped,
    numbers,
    one_minus,
    plain,
)

Part = dict[str, Any]
"""`sparsifier` or `method` of a merge file."""
Settings = dict[str, Setting]
"""Settings of a parameter by expert."""
NONE: Part = {"kind": "none"}


def arithmetic(inputs: Inputs) -> tuple[Part, Part]:
    """Sparsifier and method for a mergekit file.

    Raises:
        ConfigError: mergegrid cannot compute the same; the message names line and key.
    """
    special: dict[str, Callable[[Inputs], Part]] = {
        # The average of equal models is that model, to the bit.
        "passthrough": lambda _: {"kind": "average"},
        "linear": _linear,
        "slerp": _slerp,
        "nuslerp": _nuslerp,
        "multislerp": _multislerp,
        "karcher": _karcher,
        "model_stock": _model_stock,
        "ram": _ram,
        "sce": _sce,
    }
    if inputs.file.method in special:
        return NONE, special[inputs.file.method](inputs)
    return _merged_deltas(inputs)


def _linear(inputs: Inputs) -> Part:
    """Σ w θ / Σ w, or Σ w θ."""
    weights = inputs.per_model("weight")
    if inputs.number("normalize"):
        return _weighted(inputs, "average", weights)
    _check_weights(inputs, "average", weights)
    return {"kind": "average", "weights": _plain(weights), "normalize": False}


def _weighted(inputs: Inputs, kind: str, weights: Settings) -> Part:
    """A method with weights that are divided by their sum; they are left out if all are equal."""
    _check_weights(inputs, kind, weights)
    equal = {constant(weight) for weight in weights.values()}
    if len(equal) == 1 and None not in equal:
        return {"kind": kind}
    return {"kind": kind, "weights": _plain(weights)}


def _check_weights(inputs: Inputs, kind: str, weights: Settings) -> None:
    flat = [number for weight in weights.values() for number in numbers(weight)]
    if min(flat) < 0 or max(flat) == 0:
        inputs.refuse(
            "weight",
            f": mergegrid's {kind} takes weights of 0 or more, not all 0; for a difference of "
            "models use task_arithmetic",
        )


def _slerp(inputs: Inputs) -> Part:
    """From the base, at t = 0, to the other model."""
    if len(inputs.experts) != 1:
        raise inputs.file.document.error(
            inputs.keys,
            f": slerp merges the base and one other model, not {len(inputs.experts)} others; list "
            "two, and name one of them in base_model",
        )
    t = inputs.shared("t")
    for number in numbers(t):
        if not 0 <= number <= 1:
            inputs.refuse("t", f": {number:g} is not between 0 and 1; correct it")
    return {"kind": "slerp", "t": plain(t), "arithmetic": "mergekit"}


def _nuslerp(inputs: Inputs) -> Part:
    """From the first model to the second, or from its delta to that of the second."""
    document = inputs.file.document
    if not inputs.number("nuslerp_flatten"):
        inputs.refuse(
            "nuslerp_flatten",
            ": false rotates rows apart, which mergegrid cannot; remove it, or run mergekit",
        )
    if len(inputs.experts) != 2:
        raise document.error(
            inputs.keys, f": nuslerp merges two models, not {len(inputs.experts)}; list two"
        )
    kind = "nuslerp" if inputs.has_base else "slerp"
    return _weighted(inputs, kind, inputs.per_model("weight"))


def _multislerp(inputs: Inputs) -> Part:
    """The weighted mean direction of the models or, with a base, of their deltas."""
    if not inputs.number("normalize_weights"):
        inputs.refuse("normalize_weights", ": mergegrid divides weights by their sum; remove it")
    if inputs.given("eps"):
        inputs.refuse("eps", ": mergegrid divides by exact lengths; remove it")
    method = _weighted(inputs, "multislerp", inputs.per_model("weight"))
    return method | ({"vectors": "deltas"} if inputs.has_base else {})


def _karcher(inputs: Inputs) -> Part:
    for name in ("max_iter", "tol"):
        if inputs.given(name):
            inputs.refuse(name, ": mergegrid iterates until steps are below 1e-10; remove it")
    return {"kind": "karcher"}


def _ram(inputs: Inputs) -> Part:
    threshold = float(inputs.number("epsilon"))
    if threshold < 0:
        inputs.refuse("epsilon", f" = {threshold:g} is negative; it is a magnitude")
    return {"kind": "ram", "threshold": threshold}


def _model_stock(inputs: Inputs) -> Part:
    if inputs.number("filter_wise"):
        inputs.refuse(
            "filter_wise",
            ": true takes an angle for each row, which mergegrid cannot; remove it, or run "
            "mergekit",
        )
    return {"kind": "model_stock", "arithmetic": "mergekit"}


def _sce(inputs: Inputs) -> Part:
    share = inputs.shared("select_topk")
    for number in numbers(share):
        if not 0 < number <= 1:
            inputs.refuse("select_topk", f": {number:g} is not above 0 and at most 1; correct it")
    return {"kind": "sce", "select": plain(share), "arithmetic": "mergekit"}


def _merged_deltas(inputs: Inputs) -> tuple[Part, Part]:
    """Sparsify deltas, weight them, elect a sign, sum them, normalize, and add them times λ."""
    definition = inputs.file.definition
    sparsifier = _sparsifier(inputs) if definition.sparsifier else NONE
    weights = inputs.per_model("weight")
    factor = inputs.shared("lambda")
    normalize = bool(inputs.number("normalize"))
    if definition.elects:
        return sparsifier, _ties(inputs, factor, weights, normalize)
    method: Part = {"kind": "task_arithmetic", "coefficient": plain(factor)}
    # A coefficient that is not set is 1.
    others = {name: weight for name, weight in weights.items() if constant(weight) != 1}
    method |= {"coefficients": _plain(others)} if others else {}
    return sparsifier, method | ({"normalize": True} if normalize else {})


def _ties(inputs: Inputs, factor: Setting, weights: Settings, normalize: bool) -> Part:
    method = {
        "coefficient": plain(factor),
        "trim": 0.0,
        "scope": "per_tensor",
        "arithmetic": "mergekit",
    }
    if normalize:
        return _weighted(inputs, "ties", weights) | method
    _check_weights(inputs, "ties", weights)
    return {"kind": "ties", "weights": _plain(weights), "normalize": False} | method


def _sparsifier(inputs: Inputs) -> Part:
    """The sparsifier of densities: the rate is 1 - density."""
    kind = inputs.file.definition.sparsifier
    assert kind is not None, f"{inputs.file.method} does not sparsify"
    densities = inputs.per_model("density")
    flat = {number for density in densities.values() for number in numbers(density)}
    for number in flat:
        if not 0 <= number <= 1:
            inputs.refuse(
                "density", f": {number:g} is not between 0 and 1; it is the share that is kept"
            )
    if flat == {1.0}:
        return NONE
    rates = {name: mapped(density, one_minus) for name, density in densities.items()}
    rescale = bool(inputs.number("rescale"))
    if kind == "dare":
        return _rated("dare" if rescale else "drop_only", rates, seed=0)
    if kind == "della":
        return _della(inputs, rates, rescale)
    if rescale:
        inputs.refuse(
            "rescale",
            f": true rescales to the L1 norm, which mergegrid's {kind} cannot; remove it, or run "
            "mergekit",
        )
    if kind == "magnitude":
        return _rated("magnitude", rates, scope="per_tensor", arithmetic="mergekit")
    return _breadcrumbs(inputs, rates)


def _rated(kind: str, rates: Settings, **settings: Any) -> Part:
    """A sparsifier with a rate, or with rates of single experts where they differ."""
    return {"kind": kind, **_by_expert("rate", "rates", rates), **settings}


def _by_expert(name: str, of_experts: str, values: Settings) -> Part:
    """One value for all experts, or one for each."""
    plain_values = _plain(values)
    first, *others = plain_values.values()
    if all(other == first for other in others):
        return {name: first}
    # Every expert has its own, so the common one has no effect.
    return {name: 0.0, of_experts: plain_values}


def _breadcrumbs(inputs: Inputs, rates: Settings) -> Part:
    gammas = inputs.per_model("gamma")
    for gamma in (number for setting in gammas.values() for number in numbers(setting)):
        if not 0 <= gamma <= 1:
            inputs.refuse("gamma", f": {gamma:g} is not between 0 and 1; it is a share")
    largest = {name: _at_most(gammas[name], constant(rate)) for name, rate in rates.items()}
    shares = _by_expert("largest", "largest_of", largest)
    return _rated("breadcrumbs", rates, **shares, scope="per_tensor", arithmetic="mergekit")


def _at_most(gamma: Setting, rate: Number | None) -> Setting:
    """gamma, or the rate where that is less: mergekit then drops the largest only."""
    return mapped(gamma, lambda number: min(number, rate)) if rate and constant(gamma) else gamma


def _della(inputs: Inputs, rates: Settings, rescale: bool) -> Part:
    windows = inputs.per_model("epsilon")
    for name, setting in rates.items():
        rate, window = constant(setting), constant(windows[name])
        if rate is None or window is None or rate in (0, 1):
            continue
        if not 0 < window < min(rate, 1 - rate):
            inputs.refuse(
                "epsilon" if inputs.given("epsilon") else "density",
                f": density {one_minus(rate):g} +- epsilon {window:g} of {name} is not between 0 "
                "and 1, as mergekit requires; lower epsilon",
            )
    if not rescale:
        inputs.refuse(
            "rescale",
            ": false leaves deltas unscaled, which mergegrid's della cannot; remove it, or run "
            "mergekit",
        )
    return _rated("della", rates, **_by_expert("window", "windows", windows), seed=0)


def _plain(settings: Settings) -> dict[str, Any]:
    return {name: plain(setting) for name, setting in settings.items()}
