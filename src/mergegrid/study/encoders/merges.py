"""Search among merges: score candidates of every method, select, and score the selected on test.

The search follows the paper (arXiv 2311.03099, appendix A): each method's parameters are selected
with all deltas kept; then, with these parameters, the rate of each sparsifier. Candidates are
compared on the selection split by their mean over mask seeds and over the tasks of the set; with
the aim `each`, for every task by the score on that task alone. The first of equal candidates wins.
With racing, the worse candidates are compared on parts of the split only (`racing.py`). Only
selected candidates are scored on the test split, on the tasks that they were selected for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mergegrid.hashing import canonical_json
from mergegrid.methods import AnyMethod
from mergegrid.progress import progress
from mergegrid.recipes.recipe import Recipe, canonical_sparsifier
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.encoders.evaluator import EncoderEvaluator
from mergegrid.study.encoders.parts import Part
from mergegrid.study.encoders.racing import Heads, race
from mergegrid.study.encoders.samplers import Point, best_point
from mergegrid.study.schema.encoder_jobs import MergesRequest
from mergegrid.study.schema.sampling import Sampled
from mergegrid.study.schema.splits import Split
from mergegrid.study.scoring.scores import (
    prediction_frame,
    prediction_row,
    score_frame,
    score_row,
)

Candidate = tuple[Recipe, ...]
"""The recipes that differ in their mask seed alone."""


@dataclass(frozen=True)
class Comparison:
    """Candidates that were compared, and the best of them."""

    candidates: Sequence[Candidate]
    """In the order of the search."""
    best: Mapping[Heads, int]
    """Position of the best candidate, by the heads that it was selected for."""


def merges(
    request: MergesRequest, evaluator: EncoderEvaluator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Search, and score the selected merges on the test split.

    Returns:
        Scores of all candidates on the selection split and of the selected ones on the test split,
        and the predictions of the selected ones.
    """
    search = Search(request, evaluator)
    search.select()
    search.test()
    return search.scores(), search.predictions()


class Search:
    """One search, in two steps: the first reads the selection split, the second the test split."""

    def __init__(self, request: MergesRequest, evaluator: EncoderEvaluator) -> None:
        self._request, self._evaluator = request, evaluator
        self._targets = dict(zip(request.experts, request.targets, strict=True))
        # Only races need the numbers of examples.
        self._examples = {
            head: evaluator.examples(head, request.selection)
            for head in (request.experts if request.racing else ())
        }
        # Dictionaries, as sets in the order of the search. What was compared comes with the
        # parts that it was compared on, in order; None is the whole split.
        self._compared: dict[tuple[Recipe, str], list[Part | None]] = {}
        self._selected: dict[tuple[Recipe, str], None] = {}
        self.comparisons: list[Comparison] = []
        """All comparisons of several candidates, in order."""

    def select(self) -> None:
        """Compare all candidates on the selection split."""
        experts = tuple(self._request.experts)
        selections: list[Heads] = [experts]
        if self._request.aim == "each":
            selections = [(head,) for head in experts]
        for settings in self._request.methods:
            methods = [(self._recipe(method),) for method in dict.fromkeys(settings)]
            best = self._best(methods, selections)
            for sparsifiers in self._request.sparsifiers:
                self._select(best, sparsifiers)
        for sampled in self._request.sampled:
            for heads in selections:
                self._sample(sampled, heads)

    def test(self) -> None:
        """Score the selected candidates on the test split."""
        what = f"selected merges of {' + '.join(self._request.experts)} on test"
        # The evaluator reuses pre-passes while the sparsifier stays the same.
        recipes = sorted(_heads_of(self._selected).items(), key=lambda item: _sort_key(item[0]))
        for recipe, heads in progress(recipes, what, len(recipes)):
            self._evaluator.scores(recipe, "test", heads)

    def scores(self) -> pd.DataFrame:
        """All scores; `selected` where the recipe was selected for the head."""
        rows = [
            self._row(recipe, head, self._request.selection, compared_on)
            for (recipe, head), compared_on in self._compared.items()
        ]
        selection = self._request.selection
        rows += [
            self._row(recipe, head, "test", [None])
            for recipe, head in self._selected
            if selection != "test" or (recipe, head) not in self._compared
        ]
        return score_frame(rows)

    def predictions(self) -> pd.DataFrame:
        """Predictions of the selected recipes on the test split."""
        return prediction_frame(
            [
                prediction_row(
                    recipe,
                    head,
                    self._targets[head].task,
                    self._evaluator.scores(recipe, "test", [head])[head],
                )
                for recipe, head in self._selected
            ]
        )

    def _row(
        self, recipe: Recipe, head: str, split: Split, compared_on: Sequence[Part | None]
    ) -> dict[str, Any]:
        last = None if None in compared_on else compared_on[-1]
        if last is None:
            measurement = self._evaluator.scores(recipe, split, [head])[head]
        else:
            measurement = self._evaluator.part_score(recipe, split, head, last)
        row = score_row(
            "merges",
            recipe,
            head,
            self._targets[head].task,
            self._targets[head].metric,
            split,
            measurement,
            selected=(recipe, head) in self._selected,
            selection=self._request.selection,
            aim=self._request.aim,
            inputs_digest=self._evaluator.inputs_digest(recipe),
        )
        if self._request.racing and split == self._request.selection:
            # Each part starts with the one before; the whole split is evaluated from its start.
            largest = max((part.size for part in compared_on if part), default=0)
            whole = self._examples[head] if last is None else 0
            row |= {
                "share": measurement.n / self._examples[head],
                "evaluations": largest + whole,
            }
        return row

    def _select(self, best: dict[Heads, Candidate], sparsifiers: list[AnySparsifier]) -> None:
        """Select the settings of a sparsifier, for each head with the method that is best there."""
        heads_of_method: dict[AnyMethod, list[Heads]] = {}
        for heads, candidate in best.items():
            heads_of_method.setdefault(candidate[0].method, []).append(heads)
        for method, selections in heads_of_method.items():
            selected = self._best(self._candidates(method, sparsifiers), selections)
            for heads, candidate in selected.items():
                self._add_selected(candidate, heads)

    def _sample(self, sampled: Sampled, heads: Heads) -> None:
        """Select among the candidates that a sampler draws for these heads."""
        whole: dict[str, Part | None] = dict.fromkeys(heads)

        def evaluate(point: Point) -> float:
            values = [self._values(recipe, whole) for recipe in self._drawn(sampled, point)]
            return float(np.mean([by_head[head] for by_head in values for head in heads]))

        what = f"{sampled.sampler} for {' with '.join(sampled.kinds)} on {self._request.selection}"
        self._add_selected(self._drawn(sampled, best_point(sampled, evaluate, what)), heads)

    def _drawn(self, sampled: Sampled, point: Point) -> Candidate:
        """The recipes with the numbers of a point, one per mask seed."""
        method, sparsifiers = sampled.point(point, self._request.mask_seeds)
        recipes = [self._recipe(method, sparsifier) for sparsifier in sparsifiers]
        return tuple(dict.fromkeys(recipes))

    def _add_selected(self, candidate: Candidate, heads: Heads) -> None:
        pairs = [(recipe, head) for recipe in candidate for head in heads]
        self._selected.update(dict.fromkeys(pairs))

    def _recipe(self, method: AnyMethod, sparsifier: AnySparsifier | None = None) -> Recipe:
        return Recipe(
            family=self._request.family,
            experts=tuple(self._request.experts),
            training_seed=self._request.training_seed,
            # Different settings of the same model become one recipe, which is scored once.
            sparsifier=canonical_sparsifier(sparsifier or NoSparsifier()),
            method=method,
        )

    def _candidates(self, method: AnyMethod, sparsifiers: list[AnySparsifier]) -> list[Candidate]:
        """Group recipes that differ in their mask seed alone."""
        groups: dict[str, dict[Recipe, None]] = {}
        for sparsifier in sparsifiers:
            recipe = self._recipe(method, sparsifier)
            settings = recipe.sparsifier.model_dump(mode="json", exclude={"seed"})
            groups.setdefault(canonical_json(settings), {})[recipe] = None
        return [tuple(recipes) for recipes in groups.values()]

    def _best(
        self, candidates: Sequence[Candidate], selections: Sequence[Heads]
    ) -> dict[Heads, Candidate]:
        """Find the best candidate by the mean over the heads of each selection."""
        if len(candidates) == 1:
            return dict.fromkeys(selections, candidates[0])

        def evaluate(candidate: int, parts: Mapping[str, Part | None]) -> list[Mapping[str, float]]:
            return [self._values(recipe, parts) for recipe in candidates[candidate]]

        sparsifier, method = candidates[0][0].sparsifier.kind, candidates[0][0].method.kind
        best = race(
            len(candidates),
            selections,
            self._request.racing,
            self._examples,
            evaluate,
            f"{method} with {sparsifier} on {self._request.selection}",
        )
        if self._request.racing:
            self._evaluator.drop_models()
        self.comparisons.append(Comparison(candidates, best))
        return {heads: candidates[position] for heads, position in best.items()}

    def _values(self, recipe: Recipe, parts: Mapping[str, Part | None]) -> dict[str, float]:
        """The metric of a recipe by head, on parts of the selection split or on all of it."""
        split: Split = self._request.selection
        for head, part in parts.items():
            self._compared.setdefault((recipe, head), []).append(part)
        whole = [head for head, part in parts.items() if part is None]
        running = {head: part for head, part in parts.items() if part is not None}
        values = self._evaluator.part_values(recipe, split, running) if running else {}
        if whole:
            scores = self._evaluator.scores(recipe, split, whole)
            values |= {head: score.value for head, score in scores.items()}
        return values


def _heads_of(pairs: Iterable[tuple[Recipe, str]]) -> dict[Recipe, list[str]]:
    heads: dict[Recipe, list[str]] = {}
    for recipe, head in pairs:
        heads.setdefault(recipe, []).append(head)
    return heads


def _sort_key(recipe: Recipe) -> str:
    return canonical_json(recipe.sparsifier.model_dump(mode="json"))
