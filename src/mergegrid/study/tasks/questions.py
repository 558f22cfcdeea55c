"""Questions of a benchmark: read, sliced and put into prompts once, the same for every model.

The prepared table has one row per question; `reference` is JSON:

    id  instruction      prompt                              reference
    0   Janet's ducks .. Below is an instruction that ...    {"answer": "... #### 18"}
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mergegrid.errors import DataError
from mergegrid.study.schema.benchmarks import Benchmark
from mergegrid.study.tasks.benchmarks import READERS
from mergegrid.study.tasks.benchmarks.humaneval import packaged_problems
from mergegrid.study.tasks.generators import generate
from mergegrid.study.tasks.table_files import read_table

STAGE_VERSIONS = {"prepare_questions": 1}


def prepare_questions(benchmark: Benchmark, path: Path | None) -> pd.DataFrame:
    """Prepare the questions of a benchmark.

    Args:
        benchmark: the settings of the benchmark.
        path: where its records were fetched to; None if they are generated or packaged.

    Raises:
        DataError: a record lacks a column or has an unusable question or reference, two records
            have one id, or no question is left.
    """
    questions = READERS[benchmark.kind](_records(benchmark, path))
    rows_by_id: dict[str, int] = {}
    for row, question in enumerate(questions):
        first = rows_by_id.setdefault(question.id, row)
        if first != row:
            raise DataError(
                f"two {benchmark.kind} records have the id {question.id}: records {first + 1} and "
                f"{row + 1}; check that the files are right"
            )
    selected = questions[benchmark.start : benchmark.end]
    if not selected:
        raise DataError(
            f"`start` is {benchmark.start}, but there are {len(questions)} {benchmark.kind} "
            "records; lower `start`"
            if questions
            else f"there are no {benchmark.kind} records; choose files that contain some"
        )
    rows = [
        {
            "id": question.id,
            "instruction": question.instruction,
            "prompt": _prompt(benchmark, question.instruction),
            "reference": json.dumps(question.reference, sort_keys=True),
        }
        for question in selected
    ]
    return pd.DataFrame(rows).astype("string")


def _prompt(benchmark: Benchmark, instruction: str) -> str:
    """Put an instruction into the prompt for models without a chat template.

    In the paper's prompt, indentation becomes tabs, as its models were trained on (its code).
    """
    if benchmark.prompt is None and benchmark.kind in ("humaneval", "mbpp"):
        instruction = instruction.replace("    ", "\t")
    return benchmark.template.replace("{instruction}", instruction)


def _records(benchmark: Benchmark, path: Path | None) -> Sequence[Mapping[str, Any]]:
    if benchmark.generated is not None:
        settings = benchmark.generated
        return generate(settings.generator, settings.count, settings.seed)
    if benchmark.records is None:
        return packaged_problems()
    assert path is not None, "records are fetched before they are read"
    frame = read_table(benchmark.records, path)
    return [
        {str(key): value for key, value in record.items()}
        for record in frame.to_dict(orient="records")
    ]
