"""A bench: base, experts and examples in memory, and the scores of any recipe over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mergegrid.checkpoints.checkpoint import Checkpoint, InMemory
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.model_statistics import open_statistics
from mergegrid.checkpoints.publish import published_digest, read_manifest, recorded_libraries
from mergegrid.checkpoints.torch_tensors import OnDevice
from mergegrid.engine.bound_recipe import BoundRecipe, StatisticsScope
from mergegrid.engine.budget import options_for
from mergegrid.engine.engine import Engine, MergedCheckpoint
from mergegrid.hashing import digest
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.stages import Libraries, library_versions, stage_versions, union_of_versions
from mergegrid.study.encoders.scoring import TaskScorer
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.runtime.gpu_devices import hardware_name
from mergegrid.study.schema.encoder_jobs import Target, statistic_of
from mergegrid.study.scoring.scores import Measurement, Split
from mergegrid.study.tasks.examples import examples_digest

_STAGES = ("merge", "evaluate_encoder")


@dataclass(frozen=True)
class Member:
    """One expert on the bench."""

    folder: Path
    """Published folder of the expert."""
    target: Target
    """The task it is scored on."""
    examples: pd.DataFrame
    """Prepared examples of that task."""
    statistics: Path | None = None
    """Published folder of what was gathered of the expert, for methods that need it."""


class Bench:
    """Scores recipes of some experts of one base, each on the tasks of its experts.

    Models are loaded when the first score is really missing from the store.
    """

    def __init__(
        self,
        base: Path,
        members: Mapping[str, Member],
        store: ScoreStore,
        device: str = "cpu",
    ) -> None:
        self._base_folder, self._members = base, members
        self._store, self._device = store, device
        self._inputs = {
            "base": published_digest(base),
            "versions": stage_versions(*_STAGES),
            "device": hardware_name(device),
        }
        self._inputs_of_members = {
            name: {
                "expert": published_digest(member.folder),
                "target": member.target.model_dump(mode="json"),
                "examples": examples_digest(member.examples),
            }
            for name, member in members.items()
        }
        self._files_of_members = {
            name: read_manifest(member.statistics)["files"] if member.statistics else {}
            for name, member in members.items()
        }
        folders = [folder for each in members.values() for folder in (each.folder, each.statistics)]
        self._recorded = {folder: recorded_libraries(folder) for folder in folders if folder}
        self._engine: Engine | None = None
        self._statistics: dict[Path, Checkpoint] = {}
        self._scorers: dict[str, TaskScorer] = {}
        self._last: AnySparsifier | None = None

    def missing(self, recipes: Sequence[Recipe], split: Split) -> int:
        """How many of the recipes have a score that must still be measured."""
        return sum(
            any(self._store.get(self._key(recipe, name, split)) is None for name in recipe.experts)
            for recipe in recipes
        )

    def scores(
        self, recipe: Recipe, split: Split, heads: Sequence[str] | None = None
    ) -> dict[str, Measurement]:
        """Scores of a recipe by expert, on the task of each; measured only where not known.

        Args:
            recipe: what is scored.
            split: the examples it is scored on.
            heads: the experts on whose tasks it is scored; all of the recipe's when unset.
        """
        merged: Checkpoint | None = None
        found: dict[str, Measurement] = {}
        for name in heads or recipe.experts:
            key = self._key(recipe, name, split)
            measurement = self._store.get(key)
            if measurement is None:
                merged = merged or self._merge(recipe)
                measurement = self._scorers[name].measure(merged, split)
                measurement = replace(measurement, libraries=self._libraries_of(recipe))
                self._store.add(key, measurement)
            found[name] = measurement
        return found

    def inputs_digest(self, recipe: Recipe) -> str:
        """SHA-256 over everything but the recipe that its scores depend on."""
        return digest(self._inputs_of(recipe))

    def _libraries_of(self, recipe: Recipe) -> Libraries:
        """Libraries behind a score measured now: those of its inputs and those used here."""
        folders = [self._members[name].folder for name in recipe.experts]
        if statistic_of(recipe.method):
            of_experts = (self._members[name].statistics for name in recipe.experts)
            folders += [folder for folder in of_experts if folder]
        return union_of_versions(
            [library_versions(*_STAGES), *(self._recorded[each] for each in folders)]
        )

    def _inputs_of(self, recipe: Recipe) -> dict[str, Any]:
        members = {name: self._inputs_of_members[name] for name in recipe.experts}
        if wanted := statistic_of(recipe.method):
            members = {
                name: {**each, "statistics": self._files_of_members[name][wanted.file]}
                for name, each in members.items()
            }
        return {**self._inputs, "members": members}

    def _key(self, recipe: Recipe, name: str, split: Split) -> dict[str, Any]:
        return {
            **self._inputs_of(recipe),
            "recipe": recipe.model_dump(mode="json"),
            "scored": name,
            "split": split,
        }

    def _merge(self, recipe: Recipe) -> Checkpoint:
        engine = self._load()
        bound = engine.bind(recipe, self._open_statistics(recipe))
        self._forget(engine, bound)
        merged = MergedCheckpoint(engine, bound)
        # Under one head every tensor is used once; under several, they are not made again.
        return merged if len(recipe.experts) == 1 else self._hold(merged)

    def _open_statistics(self, recipe: Recipe) -> dict[str, Checkpoint]:
        """What the method of a recipe needs to know of its experts."""
        wanted = statistic_of(recipe.method)
        if wanted is None:
            return {}
        found = {}
        for name in recipe.experts:
            folder = self._members[name].statistics
            assert folder, "inputs were digested, so the folder is there"
            path = folder / wanted.file
            if path not in self._statistics:
                self._statistics[path] = open_statistics(path)
            found[name] = self._statistics[path]
        return found

    def _forget(self, engine: Engine, bound: BoundRecipe) -> None:
        """Forget answers that would pile up.

        Recipes come ordered by sparsifier: what was surveyed behind another is not asked for again.
        What depends on statistics alone is, behind the next sparsifier; so it is kept until its
        method comes with another setting.
        """
        sparsifier, kind = bound.sparsifier, bound.method.kind
        behind_another = sparsifier != self._last
        self._last = sparsifier

        def stale(scope: object) -> bool:
            if isinstance(scope, StatisticsScope):
                return bool(scope.kind == kind and scope != bound.scope)
            return behind_another

        for key in [key for key in engine.results if stale(key[0])]:
            del engine.results[key]

    def _load(self) -> Engine:
        if self._engine is None:
            base = self._hold(open_checkpoint(self._base_folder))
            experts = {
                name: self._hold(open_checkpoint(member.folder))
                for name, member in self._members.items()
            }
            self._engine = Engine(base, experts, options=options_for(self._device, threads=1))
            self._scorers = {
                name: TaskScorer(member.folder, member.target, member.examples, self._device)
                for name, member in self._members.items()
            }
        return self._engine

    def _hold(self, checkpoint: Checkpoint) -> Checkpoint:
        on_cpu = self._device == "cpu"
        return InMemory(checkpoint) if on_cpu else OnDevice(checkpoint, self._device)
