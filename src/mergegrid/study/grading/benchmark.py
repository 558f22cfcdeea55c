"""Score a benchmark: grade and average the answers of all models of one set of experts.

Models are compared on the questions of the validation split, a fixed share of them by the digest of
their names, and reported on the test split, which is the rest. If a study selects nothing, all
questions are test questions.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mergegrid.errors import DataError
from mergegrid.hashing import digest
from mergegrid.progress import progress
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import library_versions, stage_versions, union_of_versions
from mergegrid.study.grading.graders import GRADERS
from mergegrid.study.grading.graders.grader import Context, Grades, VerdictCache
from mergegrid.study.runtime.journal import Journal
from mergegrid.study.schema.decoder_jobs import ScoreRequest
from mergegrid.study.schema.splits import Split
from mergegrid.study.scoring.scores import Measurement, score_frame, score_row
from mergegrid.study.tasks.benchmarks.question import Question
from mergegrid.study.tasks.question_splits import split_of


def score_benchmark(
    request: ScoreRequest,
    questions: pd.DataFrame,
    answers: Sequence[pd.DataFrame],
    folder: Path,
    workers: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores and the records of one benchmark.

    Args:
        request: The benchmark and the recipes of the models.
        questions: Its prepared questions.
        answers: For every recipe, in order, the answers of its model to all benchmarks.
        folder: Folder of the cached verdicts.
        workers: Number of programs that may run in parallel.

    Returns:
        Score rows, and one record per recipe, question and sample: recipe, question, digest of the
        prompt, output, the extracted answer, the verdict, the question's split, and its value of
        the primary metric over all samples.

    Raises:
        DataError: A question has no answer, or a split that is needed has no question.
    """
    stage = f"grade_{request.benchmark.kind}"
    versions, installed = stage_versions(stage), library_versions(stage)
    journal = Journal(folder / f"verdicts~{versions[stage]}.jsonl")
    columns = (questions[name].tolist() for name in ("id", "instruction", "reference"))
    parsed = [
        Question(name, instruction, json.loads(reference))
        for name, instruction, reference in zip(*columns, strict=True)
    ]
    splits = [
        split_of(request.name, question.id, request.validation_fraction) for question in parsed
    ]
    _check_splits(request, splits)
    rows: list[dict[str, Any]] = []
    records: list[pd.DataFrame] = []
    pairs = list(zip(request.recipes, answers, strict=True))
    for recipe, all_answers in progress(pairs, f"models on {request.name}", len(pairs)):
        frame = _answers_to(parsed, all_answers, request.name)
        samples = [group["output"].tolist() for _, group in frame.groupby("id", sort=False)]
        context = Context(request, folder, VerdictCache(journal, installed), workers)
        grade = GRADERS[request.benchmark.kind]
        grades = grade(context, recipe.digest[:16], parsed, samples)
        if request.benchmark.lengths:
            grades = with_lengths(grades, frame)
        generating = map(json.loads, frame["libraries"].unique())
        libraries = union_of_versions([*generating, context.verdicts.libraries])
        engine = _engine(frame)
        inputs = _inputs_digest(request, questions, frame, versions)
        rows += [
            score_row(
                "sweep" if len(recipe.experts) == 1 else "merges",
                recipe,
                request.owner,
                request.name,
                metric,
                split,
                replace(measurement, libraries=libraries),
                selected=False,
                selection=request.selection,
                inputs_digest=inputs,
                primary=primary,
                engine=engine,
            )
            for split, metric, primary, measurement in _measurements(grades, splits)
        ]
        records.append(_records(recipe, frame, grades, splits))
    return score_frame(rows), pd.concat(records, ignore_index=True)


def mean_of(values: np.ndarray) -> Measurement:
    """Return the mean over questions and its standard error."""
    n = len(values)
    stderr = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else float("nan")
    return Measurement(float(values.mean()), stderr, n)


def with_lengths(grades: Grades, answers: pd.DataFrame) -> Grades:
    """Return grades with the mean lengths of the answers to each question as further metrics.

    A model whose tokenizer calls `</think>` a special token has a think ratio of 0, because stored
    answers lack special tokens.
    """
    lengths = pd.DataFrame(
        {
            "tokens": answers["tokens"].astype(float),
            "cut": (answers["finish"] == "length").astype(float),
            "think_ratio": answers["output"].str.contains("</think>", regex=False).astype(float),
        }
    )
    means = lengths.groupby(answers["id"], sort=False).mean().reset_index(drop=True)
    return replace(grades, values=pd.concat([grades.values, means], axis=1))


def _check_splits(request: ScoreRequest, splits: Sequence[Split]) -> None:
    needed: list[Split] = ["validation", "test"] if request.selection == "validation" else ["test"]
    for split in needed:
        if split not in splits:
            raise DataError(
                f"none of the {len(splits)} questions of {request.name} is in the {split} split; "
                "use more questions, change decoders.validation_fraction "
                f"({request.validation_fraction:g}), or select on the test split"
            )


def _answers_to(questions: Sequence[Question], answers: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the answers to the questions of a benchmark, in the order of the questions."""
    positions = {question.id: position for position, question in enumerate(questions)}
    frame = answers[(answers["benchmark"] == name) & answers["id"].isin(positions)]
    frame = frame.sort_values(
        "id", key=lambda ids: ids.map(positions), kind="stable", ignore_index=True
    )
    answered = set(frame["id"])
    missing = [question for question in positions if question not in answered]
    if missing:
        raise DataError(
            f"{len(missing)} questions of {name} have no answer, the first is {missing[0]}; "
            "generate the answers again"
        )
    return frame


def _measurements(
    grades: Grades, splits: Sequence[Split]
) -> list[tuple[Split, str, bool, Measurement]]:
    """Return split, metric, whether it is the primary metric, and the measurement."""
    measurements: list[tuple[Split, str, bool, Measurement]] = []
    split_of_rows = np.asarray(splits)
    for split in dict.fromkeys(splits):
        for index, metric in enumerate(grades.values.columns):
            values = grades.values[metric].to_numpy(dtype=float)[split_of_rows == split]
            measurements.append((split, metric, index == 0, mean_of(values)))
    if "validation" not in splits:
        measurements += [
            ("test", metric, False, Measurement(value, stderr, len(splits)))
            for metric, (value, stderr) in grades.summaries.items()
        ]
    return measurements


def _records(
    recipe: Recipe, answers: pd.DataFrame, grades: Grades, splits: Sequence[Split]
) -> pd.DataFrame:
    head = answers[["benchmark", "id", "sample", "prompt_digest", "output", "finish", "tokens"]]
    frame = pd.concat([head, grades.records], axis=1)
    # Answers are in the order of their questions.
    question, _ = pd.factorize(answers["id"])
    frame["split"] = np.asarray(splits)[question]
    frame["value"] = grades.values.iloc[:, 0].to_numpy(dtype=float)[question]
    frame.insert(0, "recipe", recipe.slug)
    frame.insert(1, "recipe_digest", recipe.digest)
    return frame


def _engine(answers: pd.DataFrame) -> str:
    """Name what generated the answers, such as `vllm bfloat16 H200`; engines are joined by `+`."""
    names = []
    for text in answers["engine"].unique():
        engine: Mapping[str, Any] = json.loads(text)
        names.append(" ".join(str(engine[key]) for key in ("backend", "dtype", "device")))
    return " + ".join(dict.fromkeys(names))


def _inputs_digest(
    request: ScoreRequest,
    questions: pd.DataFrame,
    answers: pd.DataFrame,
    versions: Mapping[str, int],
) -> str:
    return digest(
        {
            "questions": questions.to_dict(orient="list"),
            "answers": answers.drop(columns="libraries").to_dict(orient="list"),
            "benchmark": request.benchmark.model_dump(mode="json"),
            "versions": versions,
        }
    )
