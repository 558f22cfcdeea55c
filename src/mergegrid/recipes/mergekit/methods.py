"""Merge methods of mergekit 0.1.5: their parameters and defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Default = float | bool | None


@dataclass(frozen=True)
class MergekitMethod:
    """Parameters of a merge method, with their defaults; None where a value must be given."""

    shared: Mapping[str, Default] = field(default_factory=dict)
    """Parameters with one value for all models; given for a model, mergekit ignores them."""
    per_model: Mapping[str, Default] = field(default_factory=dict)
    """Parameters of single models; given outside models, they hold for all."""
    base_is_input: bool = False
    """Whether a base among the models is merged like the others."""
    sparsifier: str | None = None
    """How deltas are sparsified: `magnitude`, `dare`, `breadcrumbs` or `della`."""
    elects: bool = False
    """Whether a sign is elected, as in TIES."""


def _task_arithmetic(
    sparsifier: str | None = None,
    elects: bool = False,
    normalize: bool = False,
    rescale: bool = False,
    **more: float,
) -> MergekitMethod:
    """One of the methods that merge deltas: sparsify, weight, elect, sum, normalize."""
    shared: dict[str, Default] = {"normalize": normalize, "lambda": 1.0, "int8_mask": False}
    per_model: dict[str, Default] = {"weight": None}
    if sparsifier:
        shared["rescale"] = rescale
        per_model["density"] = 1.0
    return MergekitMethod(
        shared=shared,
        per_model=per_model | more,
        sparsifier=sparsifier,
        elects=elects,
    )


METHODS: dict[str, MergekitMethod] = {
    "linear": MergekitMethod({"normalize": True}, {"weight": None}, base_is_input=True),
    "slerp": MergekitMethod({"t": None}),
    "nuslerp": MergekitMethod(
        {"nuslerp_flatten": True, "nuslerp_row_wise": False}, {"weight": None}
    ),
    "task_arithmetic": _task_arithmetic(),
    "ties": _task_arithmetic("magnitude", elects=True, normalize=True),
    "dare_linear": _task_arithmetic("dare", rescale=True),
    "dare_ties": _task_arithmetic("dare", elects=True, rescale=True),
    "breadcrumbs": _task_arithmetic("breadcrumbs", gamma=0.01),
    "breadcrumbs_ties": _task_arithmetic("breadcrumbs", elects=True, gamma=0.01),
    "della": _task_arithmetic("della", elects=True, normalize=True, rescale=True, epsilon=0.15),
    "della_linear": _task_arithmetic("della", rescale=True, epsilon=0.15),
    "model_stock": MergekitMethod({"filter_wise": False}),
    "passthrough": MergekitMethod({}, {"scale": 1.0}, base_is_input=True),
    "multislerp": MergekitMethod({"normalize_weights": True, "eps": 1e-8}, {"weight": None}),
    "karcher": MergekitMethod({"max_iter": 10, "tol": 1e-5}, base_is_input=True),
    "ram": MergekitMethod({"epsilon": 1e-5}),
    "sce": MergekitMethod({"select_topk": 1.0, "int8_mask": False}),
}
"""The methods that mergegrid has, too."""
OTHER_METHODS = ("arcee_fusion", "nearswap", "ramplus_tl")
"""The methods that mergegrid does not have."""
BOOLEAN = {
    *("filter_wise", "int8_mask", "normalize", "normalize_weights"),
    *("nuslerp_flatten", "nuslerp_row_wise", "rescale"),
}
"""Parameters that are true or false."""
PARAMETERS = {
    *(name for method in METHODS.values() for name in (*method.shared, *method.per_model)),
    *("alpha", "r"),
}
"""All parameters that have a meaning in mergekit, for some method."""
