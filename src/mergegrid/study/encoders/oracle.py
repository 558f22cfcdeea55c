"""Scores of an oracle: every expert's task, answered by the model that learnt them together."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.publish import published_digest, recorded_libraries
from mergegrid.hashing import digest
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import library_versions, stage_versions, union_of_versions
from mergegrid.study.encoders.scoring import TaskScorer
from mergegrid.study.schema.oracle_jobs import OracleRequest
from mergegrid.study.scoring.scores import Split, score_frame, score_row
from mergegrid.study.tasks.examples import examples_digest

METHOD = "multitask"


def score_oracle(
    request: OracleRequest,
    folder: Path,
    examples: Mapping[str, pd.DataFrame],
    device: str = "cpu",
) -> pd.DataFrame:
    """Scores of an oracle on the validation and the test split of each of its tasks.

    Args:
        request: what it was trained for.
        folder: where it is published.
        examples: prepared examples of each expert's task.
        device: `cpu` or `cuda`.
    """
    inputs = digest(
        {
            "oracle": published_digest(folder),
            "examples": {name: examples_digest(each) for name, each in examples.items()},
            "device": device,
            "versions": stage_versions("evaluate_encoder"),
        }
    )
    libraries = union_of_versions(
        [library_versions("evaluate_encoder"), recorded_libraries(folder)]
    )
    rows = []
    for expert, target in zip(request.experts, request.targets, strict=True):
        scorer = TaskScorer(folder / expert, target, examples[expert], device)
        checkpoint = open_checkpoint(folder / expert)
        for split in get_args(Split):
            row = score_row(
                "oracle",
                _experts(request),
                expert,
                target.task,
                target.metric,
                split,
                replace(scorer.measure(checkpoint, split), libraries=libraries),
                selected=True,
                selection="none",
                inputs_digest=inputs,
            )
            rows.append({**row, **_as_trained(request)})
    return score_frame(rows)


def _experts(request: OracleRequest) -> Recipe:
    """The recipe of nothing but the experts, whose columns an oracle shares."""
    return Recipe(family=request.family, experts=tuple(request.experts), training_seed=request.seed)


def _as_trained(request: OracleRequest) -> dict[str, Any]:
    """The columns that tell an oracle from a merge."""
    return {"method": METHOD, "recipe": request.slug, "recipe_digest": request.digest}
