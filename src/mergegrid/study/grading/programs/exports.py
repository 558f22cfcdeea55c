"""Answers in the files that other judges of programs read, to check verdicts against theirs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergegrid.errors import DataError
from mergegrid.study.grading.programs.code import code_of, humaneval_completion, names_under_test


def write_humaneval_samples(
    path: Path,
    problems: Mapping[str, Mapping[str, str]],
    answers: Mapping[str, Sequence[str]],
) -> None:
    """Write answers for OpenAI's `evaluate_functional_correctness`, one JSON line for each:

        {"task_id": "HumanEval/0", "completion": "    return ..."}

    Args:
        path: The file to write.
        problems: Of HumanEval, by their task id; every one needs an answer.
        answers: One or more for each task id.

    Raises:
        DataError: A problem has no answer.
    """
    lines = [
        json.dumps({"task_id": name, "completion": humaneval_completion(problem, answer)})
        for name, problem in problems.items()
        for answer in _answers(answers, name)
    ]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def write_mbpp_generations(
    path: Path, problems: Sequence[Mapping[str, Any]], answers: Mapping[int, Sequence[str]]
) -> None:
    """Write answers for `--load_generations_path` of bigcode-evaluation-harness: [["def ..."]].

    That harness appends the tests itself and knows a problem by its position alone.

    Args:
        path: The file to write.
        problems: All rows of the test split of MBPP, in their order.
        answers: One or more for each task id.

    Raises:
        DataError: A problem has no answer; the harness would leave it out of the mean.
    """
    programs = [
        [
            code_of(answer, names_under_test(row), row.get("test_setup_code", ""))
            for answer in _answers(answers, row["task_id"])
        ]
        for row in problems
    ]
    path.write_text(json.dumps(programs), encoding="utf-8")


def _answers(answers: Mapping[Any, Sequence[str]], name: Any) -> Sequence[str]:
    found = answers.get(name)
    if not found:
        raise DataError(f"problem {name} has no answer; generate one for every problem")
    return found
