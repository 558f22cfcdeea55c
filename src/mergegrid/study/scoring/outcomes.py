"""Answers of models to the test examples of each task, in the form that comparisons need."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from mergegrid.study.schema.tasks import REGRESSION_METRICS
from mergegrid.study.scoring.comparisons import Answers, answer_of
from mergegrid.study.scoring.levels import Floats, TaskOutcomes
from mergegrid.study.scoring.resampling import generator, resampled

_RESAMPLES = 2000
"""Resamples for metrics that are not means; they give a standard error to 1.6 %."""


def task_outcomes(
    tested: pd.DataFrame,
    answers: Answers,
    labels: Mapping[str, Floats],
    resamples: int = _RESAMPLES,
) -> Iterator[TaskOutcomes]:
    """Yield the answers to one task after the other.

    Args:
        tested: scores to compare, numbered in column `model`, from `tested_scores`.
        answers: answers of all models, from `read_answers`.
        labels: labels of the test examples by task.
        resamples: number of resamples for metrics that are not means.

    Raises:
        DataError: a score has no answers, or not as many as there are examples.
    """
    for (task, engine), rows in tested.groupby(["task", "engine"], sort=False):
        truth = None if engine else labels.get(str(task))
        count = int(rows["n"].iloc[0]) if truth is None else len(truth)
        given = np.stack([answer_of(answers, row, count) for _, row in rows.iterrows()])
        models = rows["model"].to_numpy(np.intp)
        if truth is None:
            yield TaskOutcomes(models, mean_errors(given), given)
            continue
        metric = rows["metric"].iloc[0]
        if metric in REGRESSION_METRICS:
            outcomes = -np.abs(given - truth) / (truth.std() or 1.0)
        else:
            outcomes = (given == truth).astype(np.float64)
        if metric == "accuracy":
            yield TaskOutcomes(models, mean_errors(outcomes), outcomes)
            continue
        random = generator({"task": task, "examples": count, "findings": resamples})
        drawn = resampled(metric, truth, given, resamples, random)  # [models, resamples]
        drawn -= drawn.mean(axis=1, keepdims=True)
        # A resample of n examples varies as n - 1 do.
        drawn /= np.sqrt((resamples - 1) * (1 - 1 / count))
        yield TaskOutcomes(models, drawn, outcomes)


def mean_errors(values: Floats) -> Floats:
    """Deviations of means over examples: the product with their transpose is the covariance.

    Args:
        values: value of each example, [models, examples].
    """
    count = values.shape[1]
    centered = values - values.mean(axis=1, keepdims=True)
    scaled: Floats = centered / np.sqrt(count * max(count - 1, 1))
    return scaled
