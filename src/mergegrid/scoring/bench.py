"""A bench: base, experts and examples in memory, and the scores of any recipe over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mergegrid.checkpoints.checkpoint import (
    Checkpoint,
    InMemory,
    SafetensorsCheckpoint,
    check_homologous,
)
from mergegrid.checkpoints.publish import published_digest
from mergegrid.config.requests import Target
from mergegrid.merging.deltas import ExpertDeltas
from mergegrid.merging.engine import MergedCheckpoint
from mergegrid.merging.sparsified import SparsifiedExpert
from mergegrid.provenance import digest
from mergegrid.recipe.recipe import Recipe
from mergegrid.recipe.sparsifiers import Sparsifier
from mergegrid.scoring.classifier import Measurement, Split, TaskScorer
from mergegrid.scoring.store import ScoreStore
from mergegrid.tasks.examples import examples_digest


@dataclass(frozen=True)
class Member:
    """One expert on the bench."""

    folder: Path
    """Published folder of the expert."""
    target: Target
    """The task it is scored on."""
    examples: pd.DataFrame
    """Prepared examples of that task."""


class Bench:
    """Scores recipes of some experts of one base, each on the tasks of its experts.

    Models are loaded when the first score is really missing from the store.
    """

    def __init__(
        self,
        base: Path,
        members: Mapping[str, Member],
        store: ScoreStore,
        code: str,
        device: str = "cpu",
    ) -> None:
        self._base_folder, self._members = base, members
        self._store, self._device = store, device
        self._inputs = {
            "base": published_digest(base),
            "code": code,
            "device": device,
        }
        self._inputs_of_members = {
            name: {
                "expert": published_digest(member.folder),
                "target": member.target.model_dump(mode="json"),
                "examples": examples_digest(member.examples),
            }
            for name, member in members.items()
        }
        self._base: Checkpoint | None = None
        self._experts: dict[str, ExpertDeltas] = {}
        self._scorers: dict[str, TaskScorer] = {}
        self._sparsified: dict[str, tuple[Sparsifier, SparsifiedExpert]] = {}

    def missing(self, recipes: Sequence[Recipe], split: Split) -> int:
        """How many of the recipes have a score that must still be measured."""
        return sum(
            any(self._store.get(self._key(recipe, name, split)) is None for name in recipe.experts)
            for recipe in recipes
        )

    def scores(self, recipe: Recipe, split: Split) -> dict[str, Measurement]:
        """Scores of a recipe by expert, on the task of each; measured only where not known."""
        merged: Checkpoint | None = None
        found: dict[str, Measurement] = {}
        for name in recipe.experts:
            key = self._key(recipe, name, split)
            measurement = self._store.get(key)
            if measurement is None:
                merged = merged or self._merge(recipe)
                measurement = self._scorers[name].measure(merged, split)
                self._store.add(key, measurement)
            found[name] = measurement
        return found

    def inputs_digest(self, recipe: Recipe) -> str:
        """SHA-256 over everything but the recipe that its scores depend on."""
        return digest(self._inputs_of(recipe))

    def _inputs_of(self, recipe: Recipe) -> dict[str, Any]:
        members = {name: self._inputs_of_members[name] for name in recipe.experts}
        return {**self._inputs, "members": members}

    def _key(self, recipe: Recipe, name: str, split: Split) -> dict[str, Any]:
        return {
            **self._inputs_of(recipe),
            "recipe": recipe.model_dump(mode="json"),
            "scored": name,
            "split": split,
        }

    def _merge(self, recipe: Recipe) -> Checkpoint:
        self._load()
        assert self._base is not None
        if len(recipe.experts) == 1:
            # Used once, tensor by tensor: nothing is worth holding.
            alone = SparsifiedExpert(self._experts[recipe.experts[0]], recipe.sparsifier)
            return MergedCheckpoint(self._base, [alone], recipe.method)
        experts = [self._sparsify(name, recipe.sparsifier) for name in recipe.experts]
        return InMemory(MergedCheckpoint(self._base, experts, recipe.method), self._device)

    def _sparsify(self, name: str, sparsifier: Sparsifier) -> SparsifiedExpert:
        # Recipes come ordered by sparsifier: the last one of each expert is the one to hold.
        known = self._sparsified.get(name)
        if known is None or known[0] != sparsifier:
            self._sparsified.pop(name, None)
            expert = SparsifiedExpert(self._experts[name], sparsifier, held=True)
            self._sparsified[name] = known = (sparsifier, expert)
        return known[1]

    def _load(self) -> None:
        if self._base is not None:
            return
        self._base = InMemory(SafetensorsCheckpoint(self._base_folder), self._device)
        for name, member in self._members.items():
            expert = SafetensorsCheckpoint(member.folder)
            check_homologous(self._base, expert, name)
            weights = InMemory(expert, self._device)
            self._experts[name] = ExpertDeltas(name, self._base, weights)
            self._scorers[name] = TaskScorer(
                member.folder, member.target, member.examples, self._device
            )
