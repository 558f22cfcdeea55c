"""A merge: one recipe over the models it names, run by run."""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.model_statistics import check_settings
from mergegrid.engine.chunks import BASE, Run
from mergegrid.engine.ops.operations import Array
from mergegrid.engine.prepass import Survey
from mergegrid.errors import ConfigError
from mergegrid.hashing import canonical_json
from mergegrid.methods import METHODS
from mergegrid.methods.method import MergeRun, Subject
from mergegrid.recipes.rates import Rated
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers import SPARSIFIERS
from mergegrid.sparsifiers.sparsifier import ExpertRun, Sparsified, unchanged


@dataclass(frozen=True)
class OfStatistics:
    """Who asks what depends on statistics alone, so that sparsifiers share the answers."""

    kind: str
    """Of the method."""
    asked: str
    """The method and the experts whose statistics it has."""
    which: tuple[int, ...]
    """The `id` of each of the statistics."""
    held: tuple[Checkpoint, ...] = dataclasses.field(compare=False, repr=False)
    """The statistics: while they are held, no other object gets their `id`."""


AnswerKey = tuple[Hashable, Hashable, str]
"""Who asked, the key of the survey, and a tensor it was about."""
Answers = dict[AnswerKey, Any]
"""Answers to surveys."""

#: Who asks what depends on nothing but the sparsifier, so that recipes share the answers.
_ANYONE: Hashable = None


class Merge:
    """What a recipe makes of a run, and what must be surveyed before.

    Experts are taken in the order of their names, so that no result depends on how they are
    listed.

    Raises:
        CheckpointError: the statistics are not what the method asks for.
        ConfigError: the recipe names experts or asks for statistics that are not there, or a
            method cannot merge this many experts.
    """

    def __init__(
        self,
        recipe: Recipe,
        models: Mapping[str, Checkpoint],
        statistics: Mapping[str, Checkpoint],
        answers: Answers,
    ) -> None:
        check_recipe(recipe, models, statistics)
        self.recipe = recipe
        self.experts = tuple(sorted(recipe.experts))
        self._method, self._sparsifier = (
            METHODS[recipe.method.kind],
            SPARSIFIERS[recipe.sparsifier.kind],
        )
        self.rowwise = self._method.rowwise or self._sparsifier.rowwise
        self._answers, self._statistics = answers, statistics
        self.asker = self._who_asks()
        """Who asks the surveys of the method."""
        base = models[BASE]
        self._subject = Subject(
            experts=self.experts,
            infos=base.infos,
            merge_run=self._merge_run,
            dropped=self._rate if self._sparsifier.at_random else lambda *_: 0.0,
            statistics=statistics,
        )

    def result(self, run: Run) -> Array:
        """The merged elements of a run; every survey about it must have been answered."""
        return self._method.merge(self.recipe.method, self._merge_run(run))

    def surveys(self) -> list[list[tuple[Hashable, Survey]]]:
        """Surveys with their asker, in steps: each step may need the answers of those before."""
        base_infos = self._subject.infos
        sparsifier = [
            (_ANYONE, survey)
            for expert in self.experts
            for survey in self._sparsifier.surveys(self.recipe.sparsifier, expert, base_infos)
        ]
        method: list[tuple[Hashable, Survey]] = [
            (self.asker, survey)
            for survey in self._method.surveys(self.recipe.method, self._subject)
        ]
        first = [(asker, survey) for asker, survey in method if not survey.after]
        last = [(asker, survey) for asker, survey in method if survey.after]
        return [sparsifier, first, last]

    def _who_asks(self) -> Hashable:
        sparsifier, method = self.recipe.sparsifier, self.recipe.method
        if self._method.statistics:
            asked = canonical_json([method.model_dump(mode="json"), self.experts])
            held = tuple(self._statistics[name] for name in self.experts)
            return OfStatistics(method.kind, asked, tuple(map(id, held)), held)
        return canonical_json([sparsifier.model_dump(mode="json"), method.kind, self.experts])

    def _merge_run(self, run: Run) -> MergeRun:
        return MergeRun(
            run=run,
            experts=_Lazy(self.experts, partial(self._sparsify, run)),
            answer=lambda key: self._answers[self.asker, key, run.name],
            statistics=self._statistics,
        )

    def _sparsify(self, run: Run, expert: str) -> Sparsified:
        spec, seen = self.recipe.sparsifier, self._seen(run, expert)
        return unchanged(spec, seen) if seen.rate == 0 else self._sparsifier.apply(spec, seen)

    def _seen(self, run: Run, expert: str) -> ExpertRun:
        rate = self._rate(expert, run.name)
        return ExpertRun(run, expert, rate, lambda key, name: self._answers[_ANYONE, key, name])

    def _rate(self, expert: str, name: str) -> float:
        spec = self.recipe.sparsifier
        return spec.rate_of(expert, name) if isinstance(spec, Rated) else 0.0


class _Lazy(Mapping[str, Sparsified]):
    """Experts of a run, each sparsified when it is first asked for."""

    def __init__(self, names: tuple[str, ...], make: Callable[[str], Sparsified]) -> None:
        self._names, self._make = names, make
        self._made: dict[str, Sparsified] = {}

    def __getitem__(self, name: str) -> Sparsified:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_recipe(
    recipe: Recipe, models: Iterable[str], statistics: Mapping[str, Checkpoint]
) -> None:
    """Check what can be known of a recipe before anything is read.

    Raises:
        CheckpointError: see `Merge`.
        ConfigError: see `Merge`.
    """
    known = set(models) - {BASE}
    missing = [name for name in recipe.experts if name not in known]
    if missing:
        raise ConfigError(
            f"the recipe merges {missing[0]}, and the experts are {', '.join(sorted(known))}; "
            "name one of them"
        )
    for field in ("rates", "weights", "coefficients"):
        for spec in (recipe.sparsifier, recipe.method):
            strangers = sorted(set(getattr(spec, field, {})) - set(recipe.experts))
            if strangers:
                raise ConfigError(
                    f"{spec.kind}.{field} names {strangers[0]}, which is no expert of the recipe; "
                    f"name one of {', '.join(sorted(recipe.experts))}"
                )
    weights = getattr(recipe.method, "weights", {})
    if weights and sum(weights.get(name, 1.0) for name in recipe.experts) == 0:
        raise ConfigError(f"{recipe.method.kind}.weights sum to 0; give one expert some weight")
    if recipe.method.kind == "slerp" and len(recipe.experts) != 2:
        raise ConfigError(
            f"slerp merges two experts, and the recipe has {len(recipe.experts)}; "
            "take average, task_arithmetic or ties for another number"
        )
    if recipe.method.kind in ("model_stock", "sce") and len(recipe.experts) < 2:
        raise ConfigError(
            f"{recipe.method.kind} compares experts, and the recipe has one; name two or more"
        )
    if METHODS[recipe.method.kind].statistics:
        lacking = [name for name in recipe.experts if name not in statistics]
        if lacking:
            raise ConfigError(
                f"{recipe.method.kind} needs statistics of every expert and has none of "
                f"{lacking[0]}; name its file under statistics"
            )
        for name in recipe.experts:
            check_settings(name, statistics[name], recipe.method)
