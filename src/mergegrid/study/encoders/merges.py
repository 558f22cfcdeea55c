"""Merges: the candidates of every method, the choice among them, and the score of the chosen.

The search goes as the paper's (arXiv 2311.03099, appendix A): first each method's parameters are
chosen with all deltas kept; then, at that setting, the rate of each sparsifier. Candidates are
compared on the selection split, by their mean over mask seeds and over the tasks of the set, or,
with the aim `each`, for every task by the score on that task alone; the first of equals wins.
Only what is chosen is scored on the test split, and on the tasks that it is chosen for.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mergegrid.hashing import canonical_json
from mergegrid.methods import AnyMethod
from mergegrid.progress import progress
from mergegrid.recipes.recipe import Recipe, canonical_sparsifier
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.encoders.evaluator import Bench
from mergegrid.study.schema.encoder_jobs import MergesRequest
from mergegrid.study.scoring.scores import (
    Split,
    prediction_frame,
    prediction_row,
    score_frame,
    score_row,
)

Candidate = tuple[Recipe, ...]
"""The recipes of one setting: one for each mask seed."""
Heads = tuple[str, ...]
"""The experts on whose tasks one choice is made."""


def merges(request: MergesRequest, bench: Bench) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of all candidates on the selection split and of the chosen ones on the test split,
    and predictions of the chosen ones.
    """
    search = _Search(request, bench)
    search.run()
    return search.scores(), search.predictions()


class _Search:
    def __init__(self, request: MergesRequest, bench: Bench) -> None:
        self._request, self._bench = request, bench
        self._targets = dict(zip(request.experts, request.targets, strict=True))
        # In the order of the search; a dictionary for a set that keeps it.
        self._compared: dict[tuple[Recipe, str], None] = {}
        self._chosen: dict[tuple[Recipe, str], None] = {}

    def run(self) -> None:
        experts = tuple(self._request.experts)
        choices: list[Heads] = [experts]
        if self._request.aim == "each":
            choices = [(head,) for head in experts]
        for candidates in self._request.methods:
            methods = [(self._recipe(method),) for method in dict.fromkeys(candidates)]
            best = self._best(methods, choices)
            for sparsifiers in self._request.sparsifiers:
                self._choose(best, sparsifiers)
        what = f"chosen merges of {' + '.join(experts)} on test"
        recipes = sorted(_heads_of(self._chosen).items(), key=lambda item: _order(item[0]))
        for recipe, heads in progress(recipes, what, len(recipes)):
            self._bench.scores(recipe, "test", heads)

    def scores(self) -> pd.DataFrame:
        """All that was scored; `selected` where the recipe was chosen for the head."""
        selection = self._request.selection
        seen = dict.fromkeys(
            [(recipe, head, selection) for recipe, head in self._compared]
            + [(recipe, head, "test") for recipe, head in self._chosen]
        )
        return score_frame(
            [
                score_row(
                    "merges",
                    recipe,
                    head,
                    self._targets[head].task,
                    self._targets[head].metric,
                    split,
                    self._bench.scores(recipe, split, [head])[head],
                    selected=(recipe, head) in self._chosen,
                    selection=selection,
                    aim=self._request.aim,
                    inputs_digest=self._bench.inputs_digest(recipe),
                )
                for recipe, head, split in seen
            ]
        )

    def predictions(self) -> pd.DataFrame:
        """What the chosen answered on test."""
        return prediction_frame(
            [
                prediction_row(
                    recipe,
                    head,
                    self._targets[head].task,
                    self._bench.scores(recipe, "test", [head])[head],
                )
                for recipe, head in self._chosen
            ]
        )

    def _choose(self, best: dict[Heads, Candidate], sparsifiers: list[AnySparsifier]) -> None:
        """Choose the setting of a sparsifier, for each head at the setting that is best for it."""
        choices_of: dict[AnyMethod, list[Heads]] = {}
        for heads, candidate in best.items():
            choices_of.setdefault(candidate[0].method, []).append(heads)
        for method, choices in choices_of.items():
            found = self._best(self._settings(method, sparsifiers), choices)
            for heads, candidate in found.items():
                pairs = [(recipe, head) for recipe in candidate for head in heads]
                self._chosen.update(dict.fromkeys(pairs))

    def _recipe(self, method: AnyMethod, sparsifier: AnySparsifier | None = None) -> Recipe:
        return Recipe(
            family=self._request.family,
            experts=tuple(self._request.experts),
            training_seed=self._request.training_seed,
            # Two names of one model are one recipe, which is scored once.
            sparsifier=canonical_sparsifier(sparsifier or NoSparsifier()),
            method=method,
        )

    def _settings(self, method: AnyMethod, sparsifiers: list[AnySparsifier]) -> list[Candidate]:
        settings: dict[str, dict[Recipe, None]] = {}
        for sparsifier in sparsifiers:
            recipe = self._recipe(method, sparsifier)
            settings.setdefault(_setting(recipe), {})[recipe] = None
        return [tuple(recipes) for recipes in settings.values()]

    def _best(
        self, candidates: Sequence[Candidate], choices: Sequence[Heads]
    ) -> dict[Heads, Candidate]:
        """The best candidate by the mean over the heads of each choice."""
        if len(candidates) == 1:
            return dict.fromkeys(choices, candidates[0])
        sparsifier, method = candidates[0][0].sparsifier.kind, candidates[0][0].method.kind
        what = f"{method} with {sparsifier} on {self._request.selection}"
        means = [self._means(each, choices) for each in progress(candidates, what, len(candidates))]
        best = np.argmax(means, axis=0)
        return {heads: candidates[index] for heads, index in zip(choices, best, strict=True)}

    def _means(self, candidate: Candidate, choices: Sequence[Heads]) -> list[float]:
        asked = [head for heads in choices for head in heads]
        split: Split = self._request.selection
        found = [self._bench.scores(recipe, split, asked) for recipe in candidate]
        pairs = [(recipe, head) for recipe in candidate for head in asked]
        self._compared.update(dict.fromkeys(pairs))
        return [
            float(np.mean([scores[head].value for scores in found for head in heads]))
            for heads in choices
        ]


def _heads_of(pairs: Iterable[tuple[Recipe, str]]) -> dict[Recipe, list[str]]:
    heads: dict[Recipe, list[str]] = {}
    for recipe, head in pairs:
        heads.setdefault(recipe, []).append(head)
    return heads


def _setting(recipe: Recipe) -> str:
    return canonical_json(recipe.sparsifier.model_dump(mode="json", exclude={"seed"}))


def _order(recipe: Recipe) -> str:
    return canonical_json(recipe.sparsifier.model_dump(mode="json"))
