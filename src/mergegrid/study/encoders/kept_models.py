"""Merged models in memory that will be evaluated again: the most promising ones, within a limit."""

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.recipes.recipe import Recipe


class KeptModels:
    """Merged models by recipe: at most `limit` bytes of them, and the one in use."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._models: dict[Recipe, Checkpoint] = {}
        self._values: dict[Recipe, float] = {}

    def get(self, recipe: Recipe) -> Checkpoint | None:
        """Return the model of a recipe, if it was kept."""
        return self._models.get(recipe)

    def make_space(self) -> None:
        """Drop the models that did worst until the others fit; call it before merging the next."""
        total = sum(model.bytes for model in self._models.values())
        for recipe in sorted(self._models, key=lambda one: self._values.get(one, float("-inf"))):
            if total <= self._limit:
                break
            total -= self._models.pop(recipe).bytes

    def add(self, recipe: Recipe, model: Checkpoint) -> None:
        """Keep a model: while it is used, and longer if it is among the best."""
        self._models[recipe] = model

    def rate(self, recipe: Recipe, value: float) -> None:
        """Record how well a model did; models without a value are dropped first."""
        self._values[recipe] = value

    def clear(self) -> None:
        """Drop all models."""
        self._models.clear()
        self._values.clear()
