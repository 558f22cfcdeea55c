"""Scores of an oracle: one model that learned the tasks of all experts together."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pandas as pd

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import published_digest, recorded_libraries
from mergegrid.hashing import digest
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import library_versions, stage_versions, union_of_versions
from mergegrid.study.encoders.task_scorer import TaskScorer
from mergegrid.study.schema.encoder_jobs import OracleRequest
from mergegrid.study.schema.splits import Split
from mergegrid.study.scoring.scores import score_frame, score_row
from mergegrid.study.tasks.examples import examples_digest

METHOD = "multitask"


def score_oracle(
    request: OracleRequest,
    folder: Path,
    examples: Mapping[str, pd.DataFrame],
    device: str = "cpu",
) -> pd.DataFrame:
    """Score an oracle on the validation and the test split of all its tasks.

    Args:
        request: experts and tasks of the oracle.
        folder: published folder of the oracle.
        examples: prepared examples of each expert's task.
        device: `cpu` or `cuda`.
    """
    inputs = digest(
        {
            "oracle": published_digest(folder),
            "examples": {name: examples_digest(table) for name, table in examples.items()},
            "device": device,
            "versions": stage_versions("evaluate_encoder"),
        }
    )
    versions = [library_versions("evaluate_encoder"), recorded_libraries(folder)]
    # An oracle has the columns of a recipe of its experts, but for those of the method.
    recipe = Recipe(
        family=request.family, experts=tuple(request.experts), training_seed=request.seed
    )
    method = {"method": METHOD, "recipe": request.slug, "recipe_digest": request.digest}
    rows = []
    for expert, target in zip(request.experts, request.targets, strict=True):
        scorer = TaskScorer(folder / expert, target, examples[expert], device)
        checkpoint = open_checkpoint(folder / expert)
        for split in get_args(Split):
            row = score_row(
                "oracle",
                recipe,
                expert,
                target.task,
                target.metric,
                split,
                replace(scorer.measure(checkpoint, split), libraries=union_of_versions(versions)),
                selected=True,
                selection="none",
                inputs_digest=inputs,
            )
            rows.append({**row, **method})
    return score_frame(rows)
