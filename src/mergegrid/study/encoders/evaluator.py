"""Scores of recipes over encoders: base, experts and examples stay in memory between recipes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
from mergegrid.study.encoders.kept_models import KeptModels
from mergegrid.study.encoders.parts import Outcomes, OutcomeStore, Part, joined, order_of
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.encoders.task_scorer import TaskScorer, measurement_of
from mergegrid.study.runtime.gpu_devices import hardware_name
from mergegrid.study.schema.encoder_jobs import statistic_of
from mergegrid.study.schema.splits import Split
from mergegrid.study.schema.tasks import Target
from mergegrid.study.scoring.scores import Measurement
from mergegrid.study.tasks.examples import examples_digest
from mergegrid.study.tasks.metrics import score

_STAGES = ("merge", "evaluate_encoder")
_KEPT_BYTES = 2 << 30
"""Merged models that stay in memory between the parts of a race."""


@dataclass(frozen=True)
class EvaluatedExpert:
    """An expert with the task that recipes are scored on under its head."""

    folder: Path
    """Published folder of the expert."""
    target: Target
    """The task."""
    examples: pd.DataFrame
    """Prepared examples of the task."""
    statistics: Path | None = None
    """Published folder of the expert's model statistics, for methods that need them."""


class EncoderEvaluator:
    """Scores recipes of some experts of one base on the tasks of these experts.

    Models are loaded once a score is missing from the store. With a store of outcomes, what recipes
    predict for validation examples is kept, and they can be scored on parts of a split.
    """

    def __init__(
        self,
        base: Path,
        experts: Mapping[str, EvaluatedExpert],
        store: ScoreStore,
        device: str = "cpu",
        outcomes: OutcomeStore | None = None,
    ) -> None:
        self._base_folder, self._experts = base, experts
        self._store, self._outcomes, self._device = store, outcomes, device
        self._inputs = {
            "base": published_digest(base),
            "versions": stage_versions(*_STAGES),
            "device": hardware_name(device),
        }
        self._expert_inputs = {
            name: {
                "expert": published_digest(expert.folder),
                "target": expert.target.model_dump(mode="json"),
                "examples": examples_digest(expert.examples),
            }
            for name, expert in experts.items()
        }
        self._statistics_digests = {
            name: read_manifest(expert.statistics)["files"]
            for name, expert in experts.items()
            if expert.statistics
        }
        folders = [
            folder for expert in experts.values() for folder in (expert.folder, expert.statistics)
        ]
        self._recorded = {folder: recorded_libraries(folder) for folder in folders if folder}
        self._engine: Engine | None = None
        self._statistics: dict[Path, Checkpoint] = {}
        self._scorers: dict[str, TaskScorer] = {}
        self._last_sparsifier: AnySparsifier | None = None
        self._kept = KeptModels(_KEPT_BYTES)
        self._orders: dict[tuple[str, Split, int], NDArray[np.int64]] = {}

    def missing(self, recipes: Sequence[Recipe], split: Split) -> int:
        """Count the recipes with a score that must still be measured."""
        return sum(
            any(self._store.get(self._key(recipe, name, split)) is None for name in recipe.experts)
            for recipe in recipes
        )

    def scores(
        self, recipe: Recipe, split: Split, heads: Sequence[str] | None = None
    ) -> dict[str, Measurement]:
        """Return the scores of a recipe by head; measure those that are not in the store.

        Args:
            recipe: the merge to score.
            split: the examples to score it on.
            heads: experts under whose head, and on whose task, to score it; by default all of the
                recipe's.
        """
        merged: Checkpoint | None = None
        made: Recipe | None = None
        scores: dict[str, Measurement] = {}
        for name in heads or recipe.experts:
            key = self._key(recipe, name, split)
            measurement = self._store.get(key)
            if measurement is None:
                needed = recipe.for_expert(name)
                if merged is None or needed != made:
                    kept = self._kept.get(needed)
                    merged, made = self._merge(needed) if kept is None else kept, needed
                measurement = self._measure(recipe, name, split, merged)
                self._store.add(key, measurement)
            scores[name] = measurement
        return scores

    def outcomes(self, recipe: Recipe, split: Split, head: str) -> NDArray[Any]:
        """Return what a recipe predicts for the examples of a split, as its score was measured.

        Where a score was stored without predictions, by an earlier version, they are made now.
        """
        assert self._outcomes, "predictions for validation need a store of outcomes"
        self.scores(recipe, split, [head])
        key = self._key(recipe, head, split)
        if self._outcomes.get(key) is None:
            self._measure(recipe, head, split, self._kept_or_merged(recipe.for_expert(head)))
        known = self._outcomes.get(key)
        assert known, "measuring stores predictions"
        return known.predictions

    def part_values(
        self, recipe: Recipe, split: Split, parts: Mapping[str, Part]
    ) -> dict[str, float]:
        """Return the metric of a recipe on parts of a split, by head.

        Only pieces of the parts that are not in the store are evaluated. The merged model stays in
        memory for the next part while it is among the best.
        """
        values = {}
        for name, part in parts.items():
            labels, answers = self._on_part(recipe, split, name, part)
            metric = self._experts[name].target.metric
            values[name] = score(metric, labels, answers.predictions)
        for model in self._models_of(recipe):
            self._kept.rate(model, float(np.mean(list(values.values()))))
        return values

    def part_score(self, recipe: Recipe, split: Split, head: str, part: Part) -> Measurement:
        """Return the score of a recipe on a part of a split, with its standard error."""
        labels, answers = self._on_part(recipe, split, head, part)
        target = self._experts[head].target
        measurement = measurement_of(target, labels, answers.predictions, split)
        return replace(measurement, libraries=answers.libraries)

    def drop_models(self) -> None:
        """Drop the merged models that are kept in memory."""
        self._kept.clear()

    def examples(self, head: str, split: Split) -> int:
        """Number of examples of a split of the task of an expert."""
        return int((self._experts[head].examples["split"] == split).sum())

    def inputs_digest(self, recipe: Recipe) -> str:
        """SHA-256 over everything but the recipe that its scores depend on."""
        return digest(self._inputs_of(recipe))

    def _libraries_of(self, recipe: Recipe) -> Libraries:
        """Libraries behind a score measured now: those of its inputs and those of this process."""
        folders = [self._experts[name].folder for name in recipe.experts]
        if statistic_of(recipe.method):
            of_experts = (self._experts[name].statistics for name in recipe.experts)
            folders += [folder for folder in of_experts if folder]
        recorded = [self._recorded[folder] for folder in folders]
        return union_of_versions([library_versions(*_STAGES), *recorded])

    def _inputs_of(self, recipe: Recipe) -> dict[str, Any]:
        inputs = {name: dict(self._expert_inputs[name]) for name in recipe.experts}
        if statistic := statistic_of(recipe.method):
            for name in recipe.experts:
                inputs[name]["statistics"] = self._statistics_digests[name][statistic.file]
        # "members" is part of the keys of stored scores.
        return {**self._inputs, "members": inputs}

    def _key(self, recipe: Recipe, name: str, split: Split) -> dict[str, Any]:
        return {
            **self._inputs_of(recipe),
            "recipe": recipe.model_dump(mode="json"),
            "scored": name,
            "split": split,
        }

    def _measure(self, recipe: Recipe, name: str, split: Split, merged: Checkpoint) -> Measurement:
        """Score a merged model on a split, and keep what it predicts for validation."""
        predictions = self._scorers[name].predict(merged, split)
        libraries = self._libraries_of(recipe)
        if self._outcomes and split == "validation":
            self._outcomes.add(self._key(recipe, name, split), Outcomes(predictions, libraries))
        return replace(self._scorers[name].measurement(predictions, split), libraries=libraries)

    def _on_part(
        self, recipe: Recipe, split: Split, name: str, part: Part
    ) -> tuple[NDArray[Any], Outcomes]:
        """Labels of a part, and what the recipe predicts for it."""
        assert self._outcomes, "parts of a split need a store of outcomes"
        examples = self._experts[name].examples
        examples = examples[examples["split"] == split]
        if (name, split, part.seed) not in self._orders:
            self._orders[name, split, part.seed] = order_of(examples, part.seed)
        order, key = self._orders[name, split, part.seed], self._key(recipe, name, split)
        pieces = []
        for start, end in part.pieces():
            piece = self._outcomes.get({**key, "part": [part.seed, start, end]})
            if piece is None:
                model = self._kept_or_merged(recipe.for_expert(name))
                rows = tuple(order[start:end].tolist())
                predictions = self._scorers[name].predict(model, split, rows)
                piece = Outcomes(predictions, self._libraries_of(recipe))
                self._outcomes.add({**key, "part": [part.seed, start, end]}, piece)
            pieces.append(piece)
        return examples["label"].to_numpy()[order[: part.size]], joined(pieces)

    def _models_of(self, recipe: Recipe) -> set[Recipe]:
        """The recipes of the models that a recipe is evaluated with: one, or one per expert."""
        return {recipe.for_expert(name) for name in recipe.experts}

    def _kept_or_merged(self, recipe: Recipe) -> Checkpoint:
        model = self._kept.get(recipe)
        if model is None:
            self._kept.make_space()
            model = self._merge(recipe)
            self._kept.add(recipe, model)
        return model

    def _merge(self, recipe: Recipe) -> Checkpoint:
        engine = self._load()
        bound = engine.bind(recipe, self._open_statistics(recipe))
        self._drop_stale_results(engine, bound)
        merged = MergedCheckpoint(engine, bound)
        # A single head reads every tensor once; for several heads, merged tensors are kept.
        return merged if len(recipe.experts) == 1 else self._in_memory(merged)

    def _open_statistics(self, recipe: Recipe) -> dict[str, Checkpoint]:
        """Open the model statistics that the method of a recipe needs."""
        statistic = statistic_of(recipe.method)
        if statistic is None:
            return {}
        statistics = {}
        for name in recipe.experts:
            folder = self._experts[name].statistics
            assert folder, "digesting the inputs has read its manifest"
            path = folder / statistic.file
            if path not in self._statistics:
                self._statistics[path] = open_statistics(path)
            statistics[name] = self._statistics[path]
        return statistics

    def _drop_stale_results(self, engine: Engine, bound: BoundRecipe) -> None:
        """Drop pre-pass results that no later recipe can use, to bound memory.

        Recipes come ordered by sparsifier, so results that depend on the sparsifier are useless
        after the next one starts. Results that depend on statistics alone serve all sparsifiers;
        they are dropped when their method comes with other settings.
        """
        sparsifier, kind = bound.sparsifier, bound.method.kind
        new_sparsifier = sparsifier != self._last_sparsifier
        self._last_sparsifier = sparsifier

        def stale(scope: object) -> bool:
            if isinstance(scope, StatisticsScope):
                return bool(scope.kind == kind and scope != bound.scope)
            return new_sparsifier

        for key in [key for key in engine.results if stale(key[0])]:
            del engine.results[key]

    def _load(self) -> Engine:
        if self._engine is None:
            base = self._in_memory(open_checkpoint(self._base_folder))
            experts = {
                name: self._in_memory(open_checkpoint(expert.folder))
                for name, expert in self._experts.items()
            }
            self._engine = Engine(base, experts, options=options_for(self._device, threads=1))
            self._scorers = {
                name: TaskScorer(expert.folder, expert.target, expert.examples, self._device)
                for name, expert in self._experts.items()
            }
        return self._engine

    def _in_memory(self, checkpoint: Checkpoint) -> Checkpoint:
        on_cpu = self._device == "cpu"
        return InMemory(checkpoint) if on_cpu else OnDevice(checkpoint, self._device)
