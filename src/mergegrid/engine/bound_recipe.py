"""A recipe bound to open models: what it computes of a chunk, and its pre-passes."""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.engine.chunks import BASE, Chunk
from mergegrid.engine.method import MergeChunk, Method, MethodInputs
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass_runner import PrepassResults, ScopedPrepass
from mergegrid.engine.sparsifier import ExpertChunk, SparsifiedChunk, Sparsifier, unchanged
from mergegrid.engine.tensors import Tensors
from mergegrid.errors import ConfigError
from mergegrid.hashing import canonical_json


class MergeRecipe(Protocol):
    """The part of a recipe that the engine needs; `mergegrid.recipes.recipe.Recipe` is one."""

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts to merge."""

    @property
    def sparsifier(self) -> Sparsifier:
        """What happens to the deltas before merging."""

    @property
    def method(self) -> Method:
        """How the sparsified experts become one model."""


@dataclass(frozen=True)
class StatisticsScope:
    """Scope of pre-passes that depend on model statistics alone: all sparsifiers share them."""

    kind: str
    """Of the method."""
    settings: str
    """Canonical JSON of the method and of its experts."""
    ids: tuple[int, ...]
    """The `id` of each expert's statistics."""
    held: tuple[Checkpoint, ...] = dataclasses.field(compare=False, repr=False)
    """The statistics: while they are held, no other object gets their `id`."""


#: Scope of pre-passes that depend on the sparsifier alone: all recipes share them.
_ANY_RECIPE: Hashable = None


class BoundRecipe:
    """A recipe bound to open models.

    Experts are taken in the order of their names, so that results do not depend on how they are
    listed.

    Raises:
        CheckpointError: the model statistics do not fit the base or the method.
        ConfigError: the recipe refers to experts or model statistics that are not there, or its
            settings do not fit its experts.
    """

    def __init__(
        self,
        recipe: MergeRecipe,
        models: Mapping[str, Checkpoint],
        statistics: Mapping[str, Checkpoint],
        results: PrepassResults,
    ) -> None:
        self._tensors = Tensors(models[BASE].infos)
        check_recipe(recipe, models, statistics, self._tensors)
        self.sparsifier, self.method = recipe.sparsifier, recipe.method
        self.experts = tuple(sorted(recipe.experts))
        self.whole_rows = self.method.whole_rows or self.sparsifier.whole_rows
        self._results = results
        self._rates: dict[tuple[str, str], float] = {}
        self.statistics = {name: statistics[name] for name in self.experts if name in statistics}
        self.scope = self._scope()
        """Scope of the method's pre-passes."""
        self._inputs = MethodInputs(
            experts=self.experts,
            infos=self._tensors,
            merge_chunk=self._merge_chunk,
            drop_rate=self._rate if self.sparsifier.at_random else lambda *_: 0.0,
            statistics=self.statistics,
        )

    def merge(self, chunk: Chunk) -> Array:
        """The merged elements of a chunk, whose pre-passes must have run."""
        # What is not finite is found when it is stored, and then named.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self.method.merge(self._merge_chunk(chunk))

    def prepasses(self) -> list[list[ScopedPrepass]]:
        """Pre-passes with their scope, in steps: each step may need the results of those before."""
        sparsifier: list[ScopedPrepass] = [
            (_ANY_RECIPE, prepass)
            for expert in self.experts
            for prepass in self.sparsifier.prepasses(expert, self._tensors)
        ]
        method: list[ScopedPrepass] = [
            (self.scope, prepass) for prepass in self.method.prepasses(self._inputs)
        ]
        first = [(scope, prepass) for scope, prepass in method if not prepass.after]
        last = [(scope, prepass) for scope, prepass in method if prepass.after]
        return [sparsifier, first, last]

    def _scope(self) -> Hashable:
        method = self.method
        if method.needs_statistics:
            settings = canonical_json([method.model_dump(mode="json"), self.experts])
            held = tuple(self.statistics.values())
            return StatisticsScope(method.kind, settings, tuple(map(id, held)), held)
        sparsifier = self.sparsifier.model_dump(mode="json")
        return canonical_json([sparsifier, method.kind, self.experts])

    def _merge_chunk(self, chunk: Chunk) -> MergeChunk:
        return MergeChunk(
            chunk=chunk,
            experts=_Lazy(self.experts, partial(self._sparsify, chunk)),
            result=lambda key: self._results[self.scope, key, chunk.name],
            statistics=self.statistics,
            tensors=self._tensors,
        )

    def _rate(self, expert: str, name: str) -> float:
        """Drop rate of a tensor of an expert."""
        if (expert, name) not in self._rates:
            rate = self.sparsifier.rate_of(expert, name)
            self._rates[expert, name] = self._tensors.number(rate, name)
        return self._rates[expert, name]

    def _sparsify(self, chunk: Chunk, expert: str) -> SparsifiedChunk:
        rate = self._rate(expert, chunk.name)
        expert_chunk = ExpertChunk(
            chunk,
            expert,
            rate,
            self.experts,
            lambda key, name: self._results[_ANY_RECIPE, key, name],
            self._tensors,
        )
        return unchanged(expert_chunk) if rate == 0 else self.sparsifier.apply(expert_chunk)


class _Lazy(Mapping[str, SparsifiedChunk]):
    """Experts of a chunk, each sparsified on first use."""

    def __init__(self, names: tuple[str, ...], compute: Callable[[str], SparsifiedChunk]) -> None:
        self._names, self._compute = names, compute
        self._computed: dict[str, SparsifiedChunk] = {}

    def __getitem__(self, name: str) -> SparsifiedChunk:
        if name not in self._computed:
            self._computed[name] = self._compute(name)
        return self._computed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_recipe(
    recipe: MergeRecipe,
    models: Mapping[str, Checkpoint],
    statistics: Mapping[str, Checkpoint],
    tensors: Tensors,
) -> None:
    """Check all that can be known of a recipe before weights are read.

    Raises:
        CheckpointError: see `BoundRecipe`.
        ConfigError: see `BoundRecipe`.
    """
    known = set(models) - {BASE}
    missing = [name for name in recipe.experts if name not in known]
    if missing:
        raise ConfigError(
            f"the recipe merges {missing[0]}, which is not among the experts "
            f"{', '.join(sorted(known))}; add it to them or remove it from the recipe"
        )
    try:
        recipe.sparsifier.check(recipe.experts)
        recipe.method.check(recipe.experts)
        recipe.sparsifier.check_values(recipe.experts, tensors)
        recipe.method.check_values(recipe.experts, tensors)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not recipe.method.needs_statistics:
        return
    lacking = [name for name in recipe.experts if name not in statistics]
    if lacking:
        raise ConfigError(
            f"{recipe.method.kind} needs model statistics of every expert, and there are none of "
            f"{lacking[0]}; add its file under `statistics`"
        )
    of_experts = {name: statistics[name] for name in recipe.experts}
    recipe.method.check_statistics(models[BASE], of_experts)
