"""Sweep of one expert over sparsifiers, rates and mask seeds."""

import logging

import pandas as pd

from mergegrid.progress import progress
from mergegrid.study.encoders.evaluator import EncoderEvaluator
from mergegrid.study.schema.encoder_jobs import SweepRequest
from mergegrid.study.scoring.scores import prediction_frame, prediction_row, score_frame, score_row

logger = logging.getLogger(__name__)


def sweep(request: SweepRequest, evaluator: EncoderEvaluator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score a sweep on the test split; nothing is selected, so all rows count as selected.

    Returns:
        Scores and predictions.
    """
    total = len(request.recipes)
    logger.info("%d recipes, %d to score", total, evaluator.missing(request.recipes, "test"))
    task = request.target.task
    scores, predictions = [], []
    for recipe in progress(request.recipes, f"sweep of {task}", total):
        for head, measurement in evaluator.scores(recipe, "test").items():
            scores.append(
                score_row(
                    "sweep",
                    recipe,
                    head,
                    task,
                    request.target.metric,
                    "test",
                    measurement,
                    selected=True,
                    selection="none",
                    inputs_digest=evaluator.inputs_digest(recipe),
                )
            )
            predictions.append(prediction_row(recipe, head, task, measurement))
    return score_frame(scores), prediction_frame(predictions)
