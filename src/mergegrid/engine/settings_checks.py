"""Checks that the settings of a sparsifier or method fit the experts of a recipe."""

from collections.abc import Sequence

from mergegrid.settings import Settings

#: Settings with a value per expert.
_BY_EXPERT = ("rates", "weights", "coefficients")


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
    if weights and sum(weights.get(name, 1.0) for name in experts) == 0:
        raise ValueError(
            f"{kind}.weights of {', '.join(sorted(experts))} sum to 0; "
            "give at least one of them a positive weight"
        )
