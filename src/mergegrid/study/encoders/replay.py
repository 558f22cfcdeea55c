"""What racing costs: races replayed on what the candidates of a finished study predicted.

Every comparison of candidates is replayed by itself, among the candidates that the full grid
compared. Where the race selects another candidate, that one is scored on the test split.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mergegrid.errors import ConfigError
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
from mergegrid.study.encoders.merges import Comparison, Search
from mergegrid.study.encoders.parts import OutcomeStore, Part, order_of
from mergegrid.study.encoders.racing import Heads, race
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.schema.encoder_jobs import MergesRequest, merges_request, needed_statistics
from mergegrid.study.schema.encoders import EncoderStudy
from mergegrid.study.schema.racing import Racing
from mergegrid.study.schema.splits import Split
from mergegrid.study.schema.study import Study
from mergegrid.study.scoring.scores import read_scores
from mergegrid.study.tasks.metrics import score
from mergegrid.yaml_files import check_content

logger = logging.getLogger(__name__)
_SPLIT: Split = "validation"


@dataclass
class _Candidates:
    """The candidates of one comparison, with what they predicted for the validation examples."""

    comparison: Comparison
    request: MergesRequest
    evaluator: EncoderEvaluator
    labels: Mapping[str, NDArray[Any]]
    """Labels by head."""
    predictions: dict[tuple[Recipe, str], NDArray[Any]]
    """What recipes predict under a head, as far as it was read."""
    spent: int = 0
    """Examples evaluated so far."""

    def evaluate(
        self, orders: Mapping[str, NDArray[np.int64]], one: int, parts: Mapping[str, Part | None]
    ) -> list[dict[str, float]]:
        """Scores of one candidate for each mask seed, as a race wants them."""
        scores = []
        for recipe in self.comparison.candidates[one]:
            values = {}
            for head, part in parts.items():
                rows = slice(None) if part is None else orders[head][: part.size]
                values[head] = self._value(recipe, head, rows)
                # A part starts with the one before; the whole split is evaluated from its start.
                self.spent += len(self.labels[head]) if part is None else part.added
            scores.append(values)
        return scores

    def mean(self, one: int, heads: Heads, split: Split) -> float:
        """Mean score of a candidate on a whole split."""
        scores = [
            self.evaluator.scores(recipe, split, heads)
            for recipe in self.comparison.candidates[one]
        ]
        return float(np.mean([by_head[head].value for by_head in scores for head in heads]))

    def _value(self, recipe: Recipe, head: str, rows: Any) -> float:
        if (recipe, head) not in self.predictions:
            known = self.evaluator.outcomes(recipe, _SPLIT, head)
            self.predictions[recipe, head] = known
        predictions = self.predictions[recipe, head]
        metric = self.request.targets[self.request.experts.index(head)].metric
        return score(metric, self.labels[head][rows], predictions[rows])


def replay(
    request: MergesRequest,
    evaluator: EncoderEvaluator,
    examples: Mapping[str, pd.DataFrame],
    racings: Sequence[Racing],
) -> Iterator[dict[str, Any]]:
    """Replay the races of one set of experts.

    Args:
        request: the set and its candidates.
        evaluator: has the scores of the full grid, or measures them.
        examples: prepared examples of the task of each expert.
        racings: how candidates drop out; each is replayed.

    Yields:
        For each way of racing, comparison and selection: the settings of the race, whether the
        choice differs, what it loses on validation and test (in score), and the number of
        evaluations of the race and of the full grid.
    """
    search = Search(request.model_copy(update={"racing": None}), evaluator)
    search.select()
    parts = {head: frame[frame["split"] == _SPLIT] for head, frame in examples.items()}
    labels = {head: part["label"].to_numpy() for head, part in parts.items()}
    predictions: dict[tuple[Recipe, str], NDArray[Any]] = {}
    for racing in racings:
        orders = {head: order_of(part, racing.seed) for head, part in parts.items()}
        for comparison in search.comparisons:
            candidates = _Candidates(comparison, request, evaluator, labels, predictions)
            best = race(
                len(comparison.candidates),
                list(comparison.best),
                racing,
                {head: len(values) for head, values in labels.items()},
                lambda *given, of=candidates, by=orders: of.evaluate(by, *given),
                f"race of {'+'.join(request.experts)}",
            )
            recipes = sum(map(len, comparison.candidates))
            full = recipes * sum(len(labels[head]) for heads in best for head in heads)
            for heads, choice in comparison.best.items():
                raced = best[heads]
                lost = {
                    split: candidates.mean(choice, heads, split)
                    - candidates.mean(raced, heads, split)
                    if raced != choice
                    else 0.0
                    for split in ("validation", "test")
                }
                yield {
                    **racing.model_dump(),
                    "differs": raced != choice,
                    **lost,
                    "spent": candidates.spent / len(best),
                    "full": full / len(best),
                }


def replay_study(study: Study, racings: Sequence[Racing], device: str = "cpu") -> pd.DataFrame:
    """Replay the races of all sets of a finished study of encoders.

    Returns:
        A row per way of racing: its settings, number of `searches` (comparisons, for each selection
        and each order of the examples), share of evaluations `evaluated`, share of choices that
        `differ`, and what they lose in points (score times 100): on `validation` and on `test`, as
        mean over all searches; `worst` is the largest loss on test.

    Raises:
        ConfigError: the study selects on the test split, or has no finished merges.
    """
    encoders = study.encoders
    if encoders is None or encoders.merges is None or encoders.selection == "test":
        raise ConfigError(
            "racing is for merges of encoders with selection: validation, which this study has not"
        )
    results = Path(study.paths.results)
    rows = []
    for request, place in _finished(encoders, results):
        family = results / request.family
        experts = _experts(encoders, family, results / "tasks", request)
        evaluator = EncoderEvaluator(
            family / "base",
            experts,
            ScoreStore(place.with_suffix(".store.jsonl")),
            device,
            OutcomeStore(place.with_suffix(".outcomes.jsonl")),
        )
        examples = {name: expert.examples for name, expert in experts.items()}
        rows += list(replay(request, evaluator, examples, racings))
    if not rows:
        raise ConfigError(
            f"{results} has no merges with several candidates; run the study first, in this "
            "working directory, or list several values in merges"
        )
    return _summary(pd.DataFrame(rows))


def racings_of(
    study: Study,
    start: Sequence[float] | None,
    keep: Sequence[float] | None,
    examples: Sequence[int] | None,
    orders: int,
) -> list[Racing]:
    """Every combination of the given settings, with as many orders of the examples.

    Settings that are not given are those of the study.

    Raises:
        ConfigError: a setting is out of its range.
    """
    merges = study.encoders.merges if study.encoders else None
    known = (merges.racing if merges else None) or Racing()
    combinations = product(
        start or [known.start], keep or [known.keep], examples or [known.examples], range(orders)
    )
    names = ("start", "keep", "examples", "seed")
    settings = [dict(zip(names, values, strict=True)) for values in combinations]
    return [check_content(Racing, values, "racing") for values in settings]


def spread_over_seeds(study: Study) -> float:
    """Standard deviation of test scores over training and mask seeds, in points.

    It is pooled over all selected merges with several runs; NaN if there are none.
    """
    assert study.encoders, "what was replayed are merges of encoders"
    finished = _finished(study.encoders, Path(study.paths.results))
    scores = read_scores([place for _, place in finished])
    rows = scores[(scores["split"] == "test") & scores["selected"]]
    runs = rows.groupby(["family", "experts", "method", "sparsifier", "head"])["value"]
    return float(100 * np.sqrt(runs.var().mean()))


def _finished(encoders: EncoderStudy, results: Path) -> Iterator[tuple[MergesRequest, Path]]:
    """The finished jobs of merges, with the files of their scores; others are warned of."""
    for family in encoders.families:
        for experts in encoders.expert_sets(family):
            for seed in encoders.training_seeds(family):
                place = results / family / "merges" / "+".join(experts) / f"seed~{seed}.parquet"
                if place.is_file():
                    yield merges_request(encoders, family, experts, seed), place
                else:
                    logger.warning("%s is missing; its set is left out", place)


def _experts(
    encoders: EncoderStudy, family: Path, tasks: Path, request: MergesRequest
) -> dict[str, EvaluatedExpert]:
    seed, experts = f"seed~{request.training_seed}", {}
    for name, target in zip(request.experts, request.targets, strict=True):
        experts[name] = EvaluatedExpert(
            family / "experts" / name / seed,
            target,
            pd.read_parquet(tasks / f"{target.task}.parquet"),
            family / "statistics" / name / seed if needed_statistics(encoders) else None,
        )
    return experts


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    rows[["validation", "test"]] *= 100
    table = rows.groupby(["start", "keep", "examples"], as_index=False, sort=False).agg(
        searches=("differs", "size"),
        evaluated=("spent", "sum"),
        full=("full", "sum"),
        differ=("differs", "mean"),
        validation=("validation", "mean"),
        test=("test", "mean"),
        worst=("test", "max"),
    )
    return table.assign(evaluated=table["evaluated"] / table["full"]).drop(columns="full")
