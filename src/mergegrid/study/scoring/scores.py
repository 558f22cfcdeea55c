"""Rows of scores: one per recipe, task head, split and metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from mergegrid.hashing import canonical_json
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import Libraries
from mergegrid.study.schema.splits import Aim, Split


@dataclass(frozen=True)
class Measurement:
    """Value of a metric on n examples."""

    value: float
    stderr: float
    n: int
    predictions: tuple[float, ...] | None = field(default=None, repr=False)
    """Classes or numbers that a classifier predicted for the test examples, in order."""
    libraries: Libraries = field(default_factory=dict)
    """Versions of the libraries behind the value and its inputs."""


#: Columns of `results/scores.parquet`: type and description.
COLUMNS = {
    "study": ("string", "`sweep` (one expert alone), `merges` or `oracle` (multi-task training)"),
    "family": ("string", "base and experts, as named in the configuration"),
    "experts": ("string", "experts of the recipe, joined by `+`"),
    "training_seed": ("int64", "seed of the experts' fine-tuning"),
    "sparsifier": ("string", "kind of the sparsifier; `none` keeps every delta"),
    "rate": ("float64", "drop rate; 0 without a sparsifier, 1 for the base"),
    "mask_seed": ("Int64", "seed of the random mask; missing without one"),
    "method": ("string", "kind of the merging method; `multitask` for an oracle"),
    "settings": ("string", "all other parameters of sparsifier and method, as JSON"),
    "head": ("string", "expert whose task head is scored, or whose ability a benchmark measures"),
    "task": ("string", "task or benchmark"),
    "split": ("string", "`validation` or `test`"),
    "metric": ("string", "metric of the task"),
    "primary": ("bool", "whether tables and figures compare this metric"),
    "value": ("float64", "value of the metric"),
    "stderr": ("float64", "standard error of the value over the examples"),
    "n": ("int64", "number of examples"),
    "selected": ("bool", "whether the recipe was selected for this task, not only a candidate"),
    "selection": ("string", "split on which candidates were compared; `none` in a sweep"),
    "aim": (
        "string",
        "whether one candidate was selected by the `mean` over the tasks of a set, or one for "
        "`each` task; `none` in a sweep",
    ),
    "recipe": ("string", "readable name of the recipe"),
    "recipe_digest": ("string", "SHA-256 of the recipe's canonical JSON"),
    "engine": ("string", "engine that generated a decoder's answers; empty for encoders"),
    "libraries": (
        "string",
        "versions of Python and the libraries behind the value, including training, as JSON",
    ),
    "inputs_digest": ("string", "SHA-256 of everything the value depends on except the recipe"),
}
#: Columns that follow where candidates raced (`merges.racing`): type and description.
RACING_COLUMNS = {
    "share": (
        "float64",
        "share of the validation split that the value is of; below 1 for a candidate that dropped "
        "out of a race; missing outside of races",
    ),
    "evaluations": (
        "Int64",
        "validation examples evaluated for this candidate: those of its largest part, and all "
        "again if it came to the whole split; missing outside of races",
    ),
}


def score_row(
    study: Literal["sweep", "merges", "oracle"],
    recipe: Recipe,
    head: str,
    task: str,
    metric: str,
    split: Split,
    measurement: Measurement,
    selected: bool,
    selection: Split | Literal["none"],
    inputs_digest: str,
    primary: bool = True,
    engine: str = "",
    aim: Aim | Literal["none"] = "none",
) -> dict[str, Any]:
    """Return one row of scores."""
    sparsifier = recipe.sparsifier.model_dump(mode="json")
    method = recipe.method.model_dump(mode="json")
    return {
        "study": study,
        "family": recipe.family,
        "experts": "+".join(recipe.experts),
        "training_seed": recipe.training_seed,
        "sparsifier": sparsifier.pop("kind"),
        "rate": sparsifier.pop("rate", 0.0),
        "mask_seed": sparsifier.pop("seed", None),
        "method": method.pop("kind"),
        "settings": canonical_json({"sparsifier": sparsifier, "method": method}),
        "head": head,
        "task": task,
        "split": split,
        "metric": metric,
        "primary": primary,
        "value": measurement.value,
        "stderr": measurement.stderr,
        "n": measurement.n,
        "selected": selected,
        "selection": selection,
        "aim": aim,
        "recipe": recipe.slug,
        "recipe_digest": recipe.digest,
        "engine": engine,
        "libraries": canonical_json(measurement.libraries),
        "inputs_digest": inputs_digest,
    }


def prediction_row(
    recipe: Recipe, head: str, task: str, measurement: Measurement
) -> dict[str, Any]:
    """Return the predictions of a recipe for the test examples of a task as one row."""
    assert measurement.predictions is not None, "test scores come with predictions"
    return {
        "recipe_digest": recipe.digest,
        "head": head,
        "task": task,
        "predictions": np.array(measurement.predictions, dtype=np.float64),
    }


def prediction_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of predictions as a table; classes are given by their index."""
    texts = {"recipe_digest": "string", "head": "string", "task": "string"}
    return pd.DataFrame(rows, columns=[*texts, "predictions"]).astype(texts)


def score_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of scores as a table with the columns and types of `COLUMNS`.

    Where candidates raced, those of `RACING_COLUMNS` follow.
    """
    raced = any("share" in row for row in rows)
    columns = COLUMNS | RACING_COLUMNS if raced else COLUMNS
    types = {name: kind for name, (kind, _) in columns.items()}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def read_scores(paths: list[Path]) -> pd.DataFrame:
    """Read files of scores into one table."""
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
