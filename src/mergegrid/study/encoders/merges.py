"""Search among merges: score candidates of every method, select, and score the selected on test.

The search follows the paper (arXiv 2311.03099, appendix A): each method's parameters are selected
with all deltas kept; then, with these parameters, the rate of each sparsifier. Candidates are
compared on the selection split by their mean over mask seeds and over the tasks of the set; with
the aim `each`, for every task by the score on that task alone. The first of equal candidates wins.
Only selected candidates are scored on the test split, on the tasks that they were selected for.
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
from mergegrid.study.encoders.evaluator import EncoderEvaluator
from mergegrid.study.schema.encoder_jobs import MergesRequest
from mergegrid.study.scoring.scores import (
    Split,
    prediction_frame,
    prediction_row,
    score_frame,
    score_row,
)

Candidate = tuple[Recipe, ...]
"""The recipes that differ in their mask seed alone."""
Heads = tuple[str, ...]
"""The experts on whose tasks one candidate is selected."""


def merges(
    request: MergesRequest, evaluator: EncoderEvaluator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run the search.

    Returns:
        Scores of all candidates on the selection split and of the selected ones on the test split,
        and the predictions of the selected ones.
    """
    search = _Search(request, evaluator)
    search.run()
    return search.scores(), search.predictions()


class _Search:
    def __init__(self, request: MergesRequest, evaluator: EncoderEvaluator) -> None:
        self._request, self._evaluator = request, evaluator
        self._targets = dict(zip(request.experts, request.targets, strict=True))
        # Dictionaries, as sets in the order of the search.
        self._compared: dict[tuple[Recipe, str], None] = {}
        self._selected: dict[tuple[Recipe, str], None] = {}

    def run(self) -> None:
        experts = tuple(self._request.experts)
        selections: list[Heads] = [experts]
        if self._request.aim == "each":
            selections = [(head,) for head in experts]
        for settings in self._request.methods:
            methods = [(self._recipe(method),) for method in dict.fromkeys(settings)]
            best = self._best(methods, selections)
            for sparsifiers in self._request.sparsifiers:
                self._select(best, sparsifiers)
        what = f"selected merges of {' + '.join(experts)} on test"
        # The evaluator reuses pre-passes while the sparsifier stays the same.
        recipes = sorted(_heads_of(self._selected).items(), key=lambda item: _sort_key(item[0]))
        for recipe, heads in progress(recipes, what, len(recipes)):
            self._evaluator.scores(recipe, "test", heads)

    def scores(self) -> pd.DataFrame:
        """All scores; `selected` where the recipe was selected for the head."""
        selection = self._request.selection
        measured = dict.fromkeys(
            [(recipe, head, selection) for recipe, head in self._compared]
            + [(recipe, head, "test") for recipe, head in self._selected]
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
                    self._evaluator.scores(recipe, split, [head])[head],
                    selected=(recipe, head) in self._selected,
                    selection=selection,
                    aim=self._request.aim,
                    inputs_digest=self._evaluator.inputs_digest(recipe),
                )
                for recipe, head, split in measured
            ]
        )

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

    def _select(self, best: dict[Heads, Candidate], sparsifiers: list[AnySparsifier]) -> None:
        """Select the settings of a sparsifier, for each head with the method that is best there."""
        heads_of_method: dict[AnyMethod, list[Heads]] = {}
        for heads, candidate in best.items():
            heads_of_method.setdefault(candidate[0].method, []).append(heads)
        for method, selections in heads_of_method.items():
            selected = self._best(self._candidates(method, sparsifiers), selections)
            for heads, candidate in selected.items():
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
        sparsifier, method = candidates[0][0].sparsifier.kind, candidates[0][0].method.kind
        what = f"{method} with {sparsifier} on {self._request.selection}"
        means = [
            self._means(candidate, selections)
            for candidate in progress(candidates, what, len(candidates))
        ]
        best = np.argmax(means, axis=0)
        return {heads: candidates[index] for heads, index in zip(selections, best, strict=True)}

    def _means(self, candidate: Candidate, selections: Sequence[Heads]) -> list[float]:
        all_heads = [head for heads in selections for head in heads]
        split: Split = self._request.selection
        scores = [self._evaluator.scores(recipe, split, all_heads) for recipe in candidate]
        pairs = [(recipe, head) for recipe in candidate for head in all_heads]
        self._compared.update(dict.fromkeys(pairs))
        return [
            float(np.mean([by_head[head].value for by_head in scores for head in heads]))
            for heads in selections
        ]


def _heads_of(pairs: Iterable[tuple[Recipe, str]]) -> dict[Recipe, list[str]]:
    heads: dict[Recipe, list[str]] = {}
    for recipe, head in pairs:
        heads.setdefault(recipe, []).append(head)
    return heads


def _sort_key(recipe: Recipe) -> str:
    return canonical_json(recipe.sparsifier.model_dump(mode="json"))
