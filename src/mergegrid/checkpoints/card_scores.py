"""Scores on a model card: the metadata `model-index`, a table, and files in `.eval_results`.

A file of `.eval_results` is written for every benchmark whose data set is on the hub:

    - dataset: {id: openai/gsm8k, task_id: gsm8k, revision: 740312add88f...}
      value: 0.66
      notes: accuracy as a fraction of 1, n = 1319, standard error 0.013

The hub shows those of data sets that are registered as benchmarks, and ignores the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

EVAL_RESULTS = ".eval_results"


@dataclass(frozen=True)
class CardScore:
    """A score of the model on one task or benchmark."""

    task: str
    """Name of the task or benchmark."""
    kind: Literal["text-classification", "text-generation"]
    """What the model does there, in the hub's words."""
    metric: str
    """Name of the metric."""
    value: float
    """Its value, between -1 and 1 or 0 and 1."""
    stderr: float
    """Standard error over the examples."""
    n: int
    """Number of examples."""
    head: str = ""
    """The expert under whose task head an encoder was scored."""
    repo: str | None = None
    """Data set on the hub."""
    config: str | None = None
    """Configuration of the data set."""
    split: str | None = None
    """Split of the data set that examples were taken from."""
    revision: str | None = None
    """Commit of the data set."""
    benchmark: str | None = None
    """Identifier of the benchmark in its data set; None for a task or a secondary metric."""


def model_index(scores: Sequence[CardScore]) -> list[Any]:
    """Scores as `huggingface_hub.EvalResult`."""
    from huggingface_hub.repocard_data import EvalResult

    return [
        EvalResult(
            task_type=score.kind,
            dataset_type=score.repo or score.task,
            dataset_name=score.task,
            dataset_config=score.config,
            dataset_split=score.split,
            dataset_revision=score.revision,
            metric_type=score.metric,
            # Tasks on one data set are one entry of the index, under the name of the first.
            metric_name=f"{score.task}: {score.metric}",
            metric_value=score.value,
        )
        for score in scores
    ]


def scores_table(scores: Sequence[CardScore]) -> str:
    """Scores as a table in Markdown."""
    rows = "".join(
        f"| {score.task} | {score.head} | {score.metric} | {score.value:.4f} ± {score.stderr:.4f} "
        f"| {score.n} |\n"
        for score in scores
    )
    head = "| task | head | metric | score ± standard error | n |\n"
    return f"{head}| --- | --- | --- | --- | --- |\n{rows}"


def write_eval_results(folder: Path, scores: Sequence[CardScore]) -> None:
    """Write a file per benchmark whose data set is on the hub, if there are some."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    for score in scores:
        if score.repo is None or score.benchmark is None:
            continue
        entry = EvalResultEntry(
            dataset_id=score.repo,
            task_id=score.benchmark,
            value=score.value,
            dataset_revision=score.revision,
            notes=f"{score.metric} as a fraction of 1, n = {score.n}, "
            f"standard error {score.stderr:.4f}",
        )
        (folder / EVAL_RESULTS).mkdir(exist_ok=True)
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        (folder / EVAL_RESULTS / f"{score.task}.yaml").write_text(text, encoding="utf-8")
