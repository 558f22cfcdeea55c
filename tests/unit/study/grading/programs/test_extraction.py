from textwrap import dedent, indent

import pytest

from mergegrid.study.grading.programs.assembly import (
    humaneval_completion,
    humaneval_program,
    mbpp_program,
)
from mergegrid.study.grading.programs.extraction import extract_code

ADD = "def add(a, b):\n    return a + b"
PROBLEM = {
    "task_id": "HumanEval/999",
    "entry_point": "add",
    "prompt": 'import math\n\n\ndef add(a, b):\n    """Add two numbers."""\n',
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
TASK = {
    "task_id": 367,
    "test_list": ["assert add(ONE, 2) == 3", "assert add(0, 0) == 0"],
    "test_setup_code": "ONE = 1",
}


@pytest.mark.parametrize(
    "answer",
    [
        ADD,
        f"\n\n{ADD}\n\n\n",
        ADD.replace("\n", "\r\n"),
        f"```python\n{ADD}\n```",
        f"```\n{ADD}\n```",
        f"~~~py\n{ADD}\n~~~",
        f"``` Python\n{ADD}\n```",
        f"Sure!\n\n```python\n{ADD}\n```\n\nIt adds.\n\n```python\nprint(add(1, 2))\n```",
        f"Install nothing:\n```bash\npip list\n```\nthen\n```python\n{ADD}\n```",
        f"```python\n{ADD}",
        f"Here is the code:\n```\n{ADD}",
        f"{ADD}\n```\n\nThis adds.",
        f"{ADD}\n```\n\nIt prints:\n```text\n3\n```",
        f"1. As follows:\n\n   ```python\n{indent(ADD, '   ')}\n   ```\n",
        f'```python\n{ADD}\n\nif __name__ == "__main__":\n    print(add(input()))\n```',
        f"```python\n{ADD}\n\n# Example usage:\nprint(add(x))\n```",
        f"Here is the function:\n\n{ADD}\n\nThis function adds a and b.",
        f"Solution:\n{ADD}\n\nExplanation:\nthe sum.",
        f"{ADD}\n\nprint(add(1, 2))",
        f"{ADD}\n\nassert add(1, 2) == 4",
        f"{ADD}\n\n### Response:\nnothing",
        f"{ADD}<|endoftext|>import os",
        f"{ADD}\n[DONE]\n\nYou are an expert",
        f"{ADD}</s>",
    ],
)
def test_the_function_is_found_in_an_answer(answer):
    assert extract_code(answer) == ADD


@pytest.mark.parametrize(
    "code",
    [
        "import math\nfrom typing import List\n\nMOD = 7\nX, Y = 1, 2\n\n" + ADD,
        "class Node:\n    pass\n\n\n" + ADD,
        "@staticmethod\n" + ADD,
        "LIMIT: int = 3\n" + ADD + "\n\nadd_two = add\n",
        'def add(a, b):\n    """\nExample:\nAdds two.\n>>> add(1, 2)\n"""\n    return a + b',
        "def outer():\n    print(1)\n    assert True\n    return 1",
        "    return a + b",
    ],
)
def test_code_alone_stays_as_it_is(code):
    assert extract_code(code) == code.rstrip()


@pytest.mark.parametrize("answer", ["", "   \n", "```\n```", "I cannot help with that."])
def test_an_answer_without_code_makes_a_program_that_fails(answer, sandbox):
    assert sandbox.run(humaneval_program(PROBLEM, answer)).status == "failed"
    assert sandbox.run(mbpp_program(TASK, answer)).status == "failed"


BODY = "    if a:\n        return a + b\n    return b"


@pytest.mark.parametrize(
    "answer",
    [
        BODY,
        BODY.lstrip(),
        dedent(BODY),
        BODY[1:],
        BODY + "\n\n\ndef more(x):\n    return (",
        BODY + "\n\nprint(add(1, 2))\nadd(",
        BODY.lstrip() + "\n\n\ndef more(x):\n    return x",
        f"```python\n{BODY}\n```",
        f"{BODY}\n```\nIt adds.",
        "return a + b",
        "    total = [\n        a,\n        b,\n]\n    return sum(total)",
        "\treturn a + b",
        ADD,
        f"from __future__ import annotations\n{ADD}",
        "add = lambda a, b: math.floor(a + b)",
        f"def helper(a):\n    return a\n\n\n{ADD}",
    ],
)
def test_bodies_and_functions_both_make_a_program_that_ends_well(answer, sandbox):
    assert sandbox.run(humaneval_program(PROBLEM, answer)).status == "passed"


@pytest.mark.parametrize(
    "answer",
    [
        "    return a - b",
        ADD.replace("+", "-"),
        ADD.replace("add", "plus"),
        "    pass",
        "    return (",
        ADD.replace("+", "-") + "\n\n\ndef check(candidate):\n    pass",
        ADD.replace("+", "-") + "\n\n\ndef quiet():\n    '''",
        ADD.replace("+", "-") + "\n\nif False: \\",
        "import sys\n\n\ndef add(a, b):\n    sys.exit(0)",
        "import os\n\n\ndef add(a, b):\n    os._exit(0)",
        "    raise SystemExit",
    ],
)
def test_wrong_answers_fail(answer, sandbox):
    assert sandbox.run(humaneval_program(PROBLEM, answer)).status in {"failed", "crashed"}
    assert sandbox.run(mbpp_program(TASK, answer)).status in {"failed", "crashed"}


def test_a_body_keeps_its_text():
    assert humaneval_completion(PROBLEM, BODY) == BODY
    assert humaneval_completion(PROBLEM, "return a + b") == "    return a + b"


def test_the_setup_of_a_task_stands_between_the_code_and_the_tests(sandbox):
    program = mbpp_program(TASK, ADD)
    assert program == f"{ADD}\n\nONE = 1\n" + "\n".join(TASK["test_list"]) + "\n"
    assert sandbox.run(program).status == "passed"


def test_without_the_setup_a_task_that_needs_it_cannot_be_solved(sandbox):
    outcome = sandbox.run(mbpp_program(TASK, ADD, setup=False))
    assert outcome.detail == "NameError: name 'ONE' is not defined"
