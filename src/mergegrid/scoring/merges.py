"""Merges: the candidates of every method, the choice among them, and the score of the chosen.

The search goes as the paper's (arXiv 2311.03099, appendix A): first each method's parameters are
chosen with all deltas kept; then, at that setting, the rate of each sparsifier. Candidates are
compared by their mean over the tasks of the set and over the mask seeds, on the selection split;
the first of equals wins. Only what is chosen is scored on the test split.
"""

import numpy as np
import pandas as pd

from mergegrid.config.requests import MergesRequest
from mergegrid.progress import progress
from mergegrid.provenance import canonical_json
from mergegrid.recipe.methods import Method
from mergegrid.recipe.recipe import Recipe
from mergegrid.recipe.sparsifiers import NoSparsifier, Sparsifier
from mergegrid.scoring.bench import Bench
from mergegrid.scoring.scores import score_frame, score_row

Candidate = tuple[Recipe, ...]
"""The recipes of one setting: one for each mask seed."""


def merges(request: MergesRequest, bench: Bench) -> pd.DataFrame:
    """Scores of all candidates on the selection split, and of the chosen ones on the test split."""
    return _Search(request, bench).run()


class _Search:
    def __init__(self, request: MergesRequest, bench: Bench) -> None:
        self._request, self._bench = request, bench
        self._compared: dict[Recipe, None] = {}
        self._chosen: dict[Recipe, None] = {}

    def run(self) -> pd.DataFrame:
        for candidates in self._request.methods:
            best = self._best([(self._recipe(method),) for method in candidates])[0].method
            for sparsifiers in self._request.sparsifiers:
                settings = self._settings(best, sparsifiers)
                self._chosen.update(dict.fromkeys(self._best(settings)))
        what = f"chosen merges of {' + '.join(self._request.experts)} on test"
        recipes = sorted(self._chosen, key=lambda recipe: _order(recipe.sparsifier))
        for recipe in progress(recipes, what, len(recipes)):
            self._bench.scores(recipe, "test")
        return self._frame()

    def _recipe(self, method: Method, sparsifier: Sparsifier | None = None) -> Recipe:
        return Recipe(
            family=self._request.family,
            experts=tuple(self._request.experts),
            training_seed=self._request.training_seed,
            sparsifier=sparsifier or NoSparsifier(),
            method=method,
        )

    def _settings(self, method: Method, sparsifiers: list[Sparsifier]) -> list[Candidate]:
        settings: dict[str, list[Recipe]] = {}
        for sparsifier in sparsifiers:
            recipe = self._recipe(method, sparsifier)
            settings.setdefault(_setting(recipe), []).append(recipe)
        return [tuple(recipes) for recipes in settings.values()]

    def _best(self, candidates: list[Candidate]) -> Candidate:
        if len(candidates) == 1:
            return candidates[0]
        sparsifier, method = candidates[0][0].sparsifier.kind, candidates[0][0].method.kind
        what = f"{method} with {sparsifier} on {self._request.selection}"
        means = [self._mean(each) for each in progress(candidates, what, len(candidates))]
        return candidates[int(np.argmax(means))]

    def _mean(self, candidate: Candidate) -> float:
        values: list[float] = []
        for recipe in candidate:
            self._compared[recipe] = None
            scores = self._bench.scores(recipe, self._request.selection)
            values.extend(measurement.value for measurement in scores.values())
        return float(np.mean(values))

    def _frame(self) -> pd.DataFrame:
        seen = dict.fromkeys(
            [(recipe, self._request.selection) for recipe in self._compared]
            + [(recipe, "test") for recipe in self._chosen]
        )
        targets = dict(zip(self._request.experts, self._request.targets, strict=True))
        return score_frame(
            [
                score_row(
                    "merges",
                    recipe,
                    name,
                    targets[name].task,
                    targets[name].metric,
                    split,
                    measurement,
                    selected=recipe in self._chosen,
                    selection=self._request.selection,
                    inputs_digest=self._bench.inputs_digest(recipe),
                )
                for recipe, split in seen
                for name, measurement in self._bench.scores(recipe, split).items()
            ]
        )


def _setting(recipe: Recipe) -> str:
    return canonical_json(recipe.sparsifier.model_dump(mode="json", exclude={"seed"}))


def _order(sparsifier: Sparsifier) -> str:
    return canonical_json(sparsifier.model_dump(mode="json"))
