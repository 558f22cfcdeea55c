"""MBPP: Python functions with three tests each (arXiv 2108.07732); tests are ids 11 to 510."""

from collections.abc import Sequence

from mergegrid.tasks.benchmarks.question import Question, Record, column

_COLUMNS = ("task_id", "text", "test_list")
_OPTIONAL = ("code", "test_setup_code")


def read(records: Sequence[Record]) -> list[Question]:
    """Questions of records with `task_id`, `text` and `test_list`, the tests being shown."""
    found = []
    for record in records:
        values = {name: column(record, [name], "mbpp") for name in _COLUMNS}
        values |= {name: record.get(name) or "" for name in _OPTIONAL}
        values["test_list"] = list(values["test_list"])
        text = "\n".join([f"{values['text']}", "Test examples:", *values["test_list"]])
        found.append(Question(str(values["task_id"]), text, values))
    return found
