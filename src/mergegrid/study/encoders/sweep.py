"""Sweep of one expert over sparsifiers, rates and mask seeds."""

import logging
from collections.abc import Sequence

import pandas as pd

from mergegrid.progress import progress
from mergegrid.recipes.recipe import Recipe
from mergegrid.study.encoders.evaluator import EncoderEvaluator
from mergegrid.study.schema.tasks import Target
from mergegrid.study.scoring.scores import prediction_frame, prediction_row, score_frame, score_row

logger = logging.getLogger(__name__)


def sweep(
    target: Target, recipes: Sequence[Recipe], evaluator: EncoderEvaluator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score a sweep on the test split; nothing is selected, so all rows count as selected.

    Returns:
        Scores and predictions.
    """
    total, task = len(recipes), target.task
    logger.info("%d recipes, %d to score", total, evaluator.missing(recipes, "test"))
    scores, predictions = [], []
    for recipe in progress(recipes, f"sweep of {task}", total):
        for head, measurement in evaluator.scores(recipe, "test").items():
            scores.append(
                score_row(
                    "sweep",
                    recipe,
                    head,
                    task,
                    target.metric,
                    "test",
                    measurement,
                    selected=True,
                    selection="none",
                    inputs_digest=evaluator.inputs_digest(recipe),
                )
            )
            predictions.append(prediction_row(recipe, head, task, measurement))
    return score_frame(scores), prediction_frame(predictions)
