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
from mergegrid.study.schema.decoder_jobs import template
from mergegrid.study.tasks.benchmarks import READERS
from mergegrid.study.tasks.benchmarks.humaneval import packaged
from mergegrid.study.tasks.benchmarks.question import Question
from mergegrid.study.tasks.generators import generate
from mergegrid.study.tasks.tables import read_table

STAGE_VERSIONS = {"prepare_questions": 1}


def prepare_questions(benchmark: Benchmark, path: Path | None) -> pd.DataFrame:
    """Make the questions of a benchmark.

    Args:
        benchmark: the benchmark as configured.
        path: where its records were fetched to, if it has any.

    Raises:
        DataError: a record lacks a column, has a question or a reference that cannot be used, two
            have one name, or none is left.
    """
    every = READERS[benchmark.kind](_records(benchmark, path))
    named: dict[str, int] = {}
    for row, question in enumerate(every):
        first = named.setdefault(question.id, row)
        if first != row:
            raise DataError(
                f"two records of {benchmark.kind} are called {question.id}, the records "
                f"{first + 1} and {row + 1}; name the right files"
            )
    chosen = every[benchmark.start : benchmark.end]
    if not chosen:
        raise DataError(
            f"the {benchmark.kind} records are {len(every)}, and questions start at "
            f"{benchmark.start}; give {'a lower start' if every else 'files that hold some'}"
        )
    rows = [
        {
            "id": question.id,
            "instruction": question.instruction,
            "prompt": raw_prompt(benchmark, question),
            "reference": json.dumps(question.reference, sort_keys=True),
        }
        for question in chosen
    ]
    return pd.DataFrame(rows).astype("string")


def raw_prompt(benchmark: Benchmark, question: Question) -> str:
    """The text that a model without chat template is given.

    Indentation is shown to the models of the paper as tabs, as they were trained (its code).
    """
    instruction = question.instruction
    if benchmark.prompt is None and benchmark.kind in ("humaneval", "mbpp"):
        instruction = instruction.replace("    ", "\t")
    return template(benchmark).replace("{instruction}", instruction)


def _records(benchmark: Benchmark, path: Path | None) -> Sequence[Mapping[str, Any]]:
    if benchmark.generated is not None:
        asked = benchmark.generated
        return generate(asked.generator, asked.count, asked.seed)
    if benchmark.records is None:
        return packaged()
    assert path is not None, "records are fetched before they are read"
    frame = read_table(benchmark.records, path)
    return [
        {str(key): value for key, value in record.items()}
        for record in frame.to_dict(orient="records")
    ]
