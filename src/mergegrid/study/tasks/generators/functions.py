"""Small Python functions with three tests each, in the columns of MBPP.

A record:

    {"text": "Write a function lamp_river(x) that multiplies a number by 3 and adds 7.",
     "code": "def lamp_river(x):\\n    return x * 3 + 7",
     "test_list": ["assert lamp_river(2) == 13", ...], "test_setup_code": "", "task_id": 17,
     "instruction": text and tests, as the benchmark shows them,
     "output": "```python\\ndef lamp_river(x):\\n    return x * 3 + 7\\n```"}
"""

from collections.abc import Sequence
from typing import Any

from mergegrid.study.tasks.benchmarks import mbpp
from mergegrid.study.tasks.generators.numbering import WORDS, Template, draw

_ONE = ("x", "n", "value", "number", "a", "num", "i", "y")
_MANY = ("values", "numbers", "items", "xs", "data", "nums", "row", "array")
_TEXT = ("text", "string", "s", "word", "line", "t", "phrase", "letters")
_SMALL, _LARGE, _LARGEST = range(1, 10), range(2, 30), range(2, 100)


def generate(count: int, seed: int) -> list[dict[str, Any]]:
    """Generate records with `instruction` and `output`, and with the columns of MBPP."""
    return [
        {"task_id": number, **record}
        for number, record in enumerate(draw(_TEMPLATES, count, seed), start=1)
    ]


def _record(
    name: str, action: str, argument: str, body: str, inputs: Sequence[Any]
) -> dict[str, Any]:
    code = f"def {name}({argument}):\n    return {body}"
    namespace: dict[str, Any] = {}
    # The expected values are those that the program returns.
    exec(code, namespace)
    tests = [f"assert {name}({value!r}) == {namespace[name](value)!r}" for value in inputs]
    record = {
        "task_id": 0,
        "text": f"Write a function {name}({argument}) that {action}.",
        "code": code,
        "test_list": tests,
        "test_setup_code": "",
    }
    (question,) = mbpp.read([record])
    del record["task_id"]
    return {
        **record,
        "instruction": question.instruction,
        "output": f"```python\n{code}\n```",
    }


def _line(first: str, second: str, x: str, factor: int, term: int) -> dict[str, Any]:
    action = f"multiplies a number by {factor} and adds {term}"
    return _record(f"{first}_{second}", action, x, f"{x} * {factor} + {term}", [0, 1, 5])


def _divisible(first: str, second: str, x: str, by: int) -> dict[str, Any]:
    action = f"says whether a number is divisible by {by}"
    return _record(f"{first}_{second}", action, x, f"{x} % {by} == 0", [by, by + 1, 3 * by])


def _scaled(first: str, second: str, xs: str, factor: int) -> dict[str, Any]:
    action = f"multiplies each number of a list by {factor}"
    body = f"[x * {factor} for x in {xs}]"
    return _record(f"{first}_{second}", action, xs, body, [[1, 2], [5], []])


def _above(first: str, second: str, xs: str, limit: int) -> dict[str, Any]:
    action = f"counts the numbers of a list that are larger than {limit}"
    body = f"sum(x > {limit} for x in {xs})"
    inputs = [[limit, limit + 1], [limit - 1], [999, 998, 1]]
    return _record(f"{first}_{second}", action, xs, body, inputs)


def _without(first: str, second: str, text: str, start: int, end: int) -> dict[str, Any]:
    action = f"gives a text without its first {start} and last {end} letters"
    body = f"{text}[{start}:-{end}]"
    inputs = ["abcdefghijklmnopqrst", "mountain tops", "a"]
    return _record(f"{first}_{second}", action, text, body, inputs)


def _repeated(first: str, second: str, text: str, times: int, mark: str) -> dict[str, Any]:
    action = f'writes a text {times} times and then "{mark}"'
    body = f'{text} * {times} + "{mark}"'
    return _record(f"{first}_{second}", action, text, body, ["a", "no", "x1"])


_NAME = (WORDS, WORDS)
_TEMPLATES = [
    Template(_line, (*_NAME, _ONE, _SMALL, _LARGE)),
    Template(_divisible, (*_NAME, _ONE, _LARGEST)),
    Template(_scaled, (*_NAME, _MANY, _LARGEST)),
    Template(_above, (*_NAME, _MANY, _LARGEST)),
    Template(_without, (*_NAME, _TEXT, _SMALL, _SMALL)),
    Template(_repeated, (*_NAME, _TEXT, range(2, 6), "-+*/:.")),
]
