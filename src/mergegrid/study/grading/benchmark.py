"""Scoring a benchmark: the answers of all variants of one set of experts, graded and averaged.

Variants are compared on the questions of the validation split, a fixed share of them by the digest
of their names, and reported on the others. Where a study has nothing to choose, all are test
questions.
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
from mergegrid.stages import Libraries, library_versions, stage_versions, union_of_versions
from mergegrid.study.grading.graders import GRADERS
from mergegrid.study.grading.graders.grader import Context, Grades, Question, Verdicts
from mergegrid.study.runtime.journal import Journal
from mergegrid.study.schema.decoder_jobs import ScoreRequest
from mergegrid.study.scoring.scores import Measurement, Split, score_frame, score_row


def score_benchmark(
    request: ScoreRequest,
    questions: pd.DataFrame,
    answers: Sequence[pd.DataFrame],
    folder: Path,
    workers: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and records of one benchmark.

    Args:
        request: the benchmark and the variants.
        questions: its prepared questions.
        answers: of each variant, in the order of the request: its answers to all benchmarks.
        folder: where verdicts that are known are kept.
        workers: programs that may run side by side.

    Returns:
        Rows of scores, and one row per variant, question and sample: recipe, question, digest of
        the prompt, output, what was extracted from it and the verdict, and the split of the
        question with its value of the primary metric, over all its samples.

    Raises:
        DataError: a question has no answer, or there is none to choose or to report on.
    """
    stage = f"grade_{request.benchmark.kind}"
    versions, here = stage_versions(stage), library_versions(stage)
    journal = Journal(folder / f"verdicts~{versions[stage]}.jsonl")
    columns = (questions[name].tolist() for name in ("id", "instruction", "reference"))
    asked = [
        Question(name, instruction, json.loads(reference))
        for name, instruction, reference in zip(*columns, strict=True)
    ]
    splits = [_split(request, question.id) for question in asked]
    _check_splits(request, splits)
    rows: list[dict[str, Any]] = []
    records: list[pd.DataFrame] = []
    pairs = list(zip(request.recipes, answers, strict=True))
    for recipe, frame in progress(pairs, f"variants on {request.name}", len(pairs)):
        own = _own(frame, asked, request.name)
        texts = [part["output"].tolist() for _, part in own.groupby("id", sort=False)]
        context = Context(request, folder, Verdicts(journal, here), workers)
        grades = GRADERS[request.benchmark.kind](context, recipe.digest[:16], asked, texts)
        engine = _engine(own)
        libraries = union_of_versions([*_libraries(own), context.verdicts.libraries])
        inputs = _inputs(request, questions, own, versions)
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
        records.append(_records(recipe, own, grades, splits))
    return score_frame(rows), pd.concat(records, ignore_index=True)


def _split(request: ScoreRequest, name: str) -> Split:
    """The split of a question: by its name alone, whatever else is asked."""
    place = int(digest([request.name, name])[:8], 16) / 2**32
    return "validation" if place < request.validation_fraction else "test"


def _check_splits(request: ScoreRequest, splits: Sequence[Split]) -> None:
    needed: list[Split] = ["validation", "test"] if request.selection == "validation" else ["test"]
    for split in needed:
        if split not in splits:
            raise DataError(
                f"none of the {len(splits)} questions of {request.name} is in the {split} split; "
                "ask more questions, change decoders.validation_fraction "
                f"({request.validation_fraction:g}), or choose on the test split"
            )


def _own(frame: pd.DataFrame, asked: Sequence[Question], name: str) -> pd.DataFrame:
    """The answers to the questions asked, in their order."""
    places = {question.id: place for place, question in enumerate(asked)}
    own = frame[(frame["benchmark"] == name) & frame["id"].isin(places)]
    own = own.sort_values("id", key=lambda ids: ids.map(places), kind="stable", ignore_index=True)
    answered = set(own["id"])
    missing = [each for each in places if each not in answered]
    if missing:
        raise DataError(
            f"{len(missing)} questions of {name} have no answer, first {missing[0]}; "
            "generate the answers again"
        )
    return own


def _measurements(
    grades: Grades, splits: Sequence[Split]
) -> list[tuple[Split, str, bool, Measurement]]:
    found: list[tuple[Split, str, bool, Measurement]] = []
    of_rows = np.asarray(splits)
    for split in dict.fromkeys(splits):
        for index, metric in enumerate(grades.values.columns):
            values = grades.values[metric].to_numpy(dtype=float)[of_rows == split]
            found.append((split, metric, index == 0, mean_of(values)))
    if "validation" not in splits:
        found += [
            ("test", metric, False, Measurement(value, stderr, len(splits)))
            for metric, (value, stderr) in grades.summaries.items()
        ]
    return found


def mean_of(values: np.ndarray) -> Measurement:
    """Mean over questions, with the standard error of a sample of them."""
    n = len(values)
    stderr = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else float("nan")
    return Measurement(float(values.mean()), stderr, n)


def _records(
    recipe: Recipe, own: pd.DataFrame, grades: Grades, splits: Sequence[Split]
) -> pd.DataFrame:
    head = own[["benchmark", "id", "sample", "prompt_digest", "output", "finish", "tokens"]]
    frame = pd.concat([head, grades.records], axis=1)
    # Answers lie in the order of their questions.
    question, _ = pd.factorize(own["id"])
    frame["split"] = np.asarray(splits)[question]
    frame["value"] = grades.values.iloc[:, 0].to_numpy(dtype=float)[question]
    frame.insert(0, "recipe", recipe.slug)
    frame.insert(1, "recipe_digest", recipe.digest)
    return frame


def _engine(own: pd.DataFrame) -> str:
    """In words, what wrote the answers; two engines in one file are both named."""
    names = []
    for text in own["engine"].unique():
        engine: Mapping[str, Any] = json.loads(text)
        parts = (engine["backend"], engine["dtype"], engine["device"])
        names.append(" ".join(map(str, parts)))
    return " + ".join(dict.fromkeys(names))


def _libraries(own: pd.DataFrame) -> list[Libraries]:
    """Libraries behind the answers."""
    return [json.loads(text) for text in own["libraries"].unique()]


def _inputs(
    request: ScoreRequest,
    questions: pd.DataFrame,
    own: pd.DataFrame,
    versions: Mapping[str, int],
) -> str:
    return digest(
        {
            "questions": questions.to_dict(orient="list"),
            "answers": own.drop(columns="libraries").to_dict(orient="list"),
            "benchmark": request.benchmark.model_dump(mode="json"),
            "versions": versions,
        }
    )
