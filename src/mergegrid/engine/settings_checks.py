"""Checks that the settings of a sparsifier or method fit the experts and tensors of a merge."""

from collections.abc import Iterator, Sequence
from typing import Any

from mergegrid.engine.tensors import Tensors
from mergegrid.engine.values import GROUPS, ByTensor, Gradient, TensorRule
from mergegrid.settings import Settings

#: Settings with a value per expert.
_BY_EXPERT = (
    "rates",
    "rescales",
    "weights",
    "coefficients",
    "windows",
    "largest_of",
    "thresholds",
)


def check_experts(settings: Settings, experts: Sequence[str]) -> None:
    """Check that values for single experts refer to experts that are merged.

    Raises:
        ValueError: one does not, or all weights are 0.
    """
    kind = settings.kind  # type: ignore[attr-defined]
    for field in _BY_EXPERT:
        strangers = sorted(set(getattr(settings, field, {})) - set(experts))
        if strangers:
            raise ValueError(
                f"{kind}.{field} refers to {strangers[0]}, which is not an expert of this recipe; "
                f"choose among {', '.join(sorted(experts))}"
            )
    weights = getattr(settings, "weights", {})
    if weights and all(weights.get(name, 1.0) == 0 for name in experts):
        raise ValueError(
            f"{kind}.weights of {', '.join(sorted(experts))} sum to 0; "
            "give at least one of them a positive weight"
        )


def check_coverage(settings: Settings, tensors: Tensors) -> None:
    """Check that rules cover tensors of the model, and that it has layers if there are gradients.

    Groups, such as `head`, may be empty: not every model has one.

    Raises:
        ValueError: a rule covers no tensor, or a gradient has no layers.
    """
    kind = settings.kind  # type: ignore[attr-defined]
    for field, value in settings:
        for part in _parts(value):
            where = f"{kind}.{field}"
            if isinstance(part, TensorRule) and not _covers_any(part, tensors):
                raise ValueError(
                    f"{where}: {part.tensors!r} covers none of the {len(tensors)} merged tensors, "
                    f"such as {next(iter(tensors))}; `mergegrid inspect` lists the names of a model"
                )
            if isinstance(part, Gradient) and not tensors.layers():
                raise ValueError(
                    f"{where} is a gradient, but no tensor has the number of a layer in its name, "
                    f"such as {next(iter(tensors))}; give one number"
                )


def check_sums(settings: Settings, field: str, experts: Sequence[str], tensors: Tensors) -> None:
    """Check that the values per expert of a field, 1 where unset, do not sum to 0 for a tensor.

    Raises:
        ValueError: they do for some.
    """
    values = getattr(settings, field)
    for name in tensors if values else ():
        if sum(tensors.number(values.get(expert, 1.0), name) for expert in experts) == 0:
            kind = settings.kind  # type: ignore[attr-defined]
            raise ValueError(
                f"{kind}.{field} of {', '.join(sorted(experts))} sum to 0 for {name}, and the "
                "merge is divided by the sum; change one of them"
            )


def _covers_any(rule: TensorRule, tensors: Tensors) -> bool:
    return rule.tensors in GROUPS or any(map(rule.applies, tensors))


def _parts(value: Any) -> Iterator[Gradient | TensorRule]:
    """All rules and gradients in a value, or in those of a mapping or sequence."""
    if isinstance(value, Gradient):
        yield value
    elif isinstance(value, TensorRule):
        yield value
        for _, inner in value:
            yield from _parts(inner)
    elif isinstance(value, ByTensor):
        yield from _parts([*value.rules, value.default])
    elif isinstance(value, dict):
        yield from _parts(list(value.values()))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _parts(inner)
