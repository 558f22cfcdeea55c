"""Answers that other harnesses, or this one, took the wrong code from.

Right functions in what models write around them pass; wrong ones in the same surroundings fail.
"""

import contextlib
import io
import json
import os
import sys
import warnings
from functools import cache
from pathlib import Path
from textwrap import indent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.study.grading.programs.assembly import (
    humaneval_completion,
    humaneval_program,
    mbpp_program,
    names_under_test,
)
from mergegrid.study.grading.programs.extraction import extract_code
from mergegrid.study.tasks.generators.functions import generate

ADD = "def add(a, b):\n    return a + b"
WRONG = "def add(a, b):\n    return a - b"
PROBLEM = {
    "entry_point": "add",
    "prompt": (
        "import math\nfrom typing import List\n\n\ndef add(a: int, b: int) -> int:\n"
        '    """Add two numbers.\n    >>> add(1, 2)\n    3\n    """\n'
    ),
    "test": (
        "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 2) == 1\n"
    ),
}
TASK = {"test_list": ["assert add(1, 2) == 3", "assert add(-1, 2) == 1"], "test_setup_code": ""}


def passes(program):
    """Run a harmless program in this process."""
    limit = sys.getrecursionlimit()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            exec(compile(program, "program", "exec", dont_inherit=True), {"__name__": "__main__"})
    except BaseException:  # noqa: BLE001  As in the sandbox, SystemExit is a failure.
        return False
    finally:
        sys.setrecursionlimit(limit)
    return True


def in_fence(code, mark="python"):
    return f"```{mark}\n{code}\n```"


#: What stands behind a right function.
BEHIND = {
    # Cut off by the limit of tokens, or damaged.
    "in the first line of a function": "\n\n\ndef other(x",
    "behind the first line of a function": "\n\n\ndef other(x):\n",
    "in an expression": "\n\n\ndef other(x):\n    return x +",
    "in a string": "\n\n\ndef other(x):\n    return 'abc",
    "in a formatted string": "\n\n\ndef other(x):\n    return f\"abc{x['",
    "in a docstring": '\n\n\ndef other(x):\n    """Adds\n    things\n',
    "in a text": '\n\n\n"""\nNext task: write a function',
    "in a bracket": "\n\n\nx = [1, 2,\n  3, (4,",
    "in a dictionary": "\n\n\nx = {'a': 1,\n  'b'",
    "in a decorator": "\n\n\n@lru_cache(max",
    "behind a decorator": "\n\n\n@property",
    "in the first line of a class": "\n\n\nclass Foo(",
    "behind the first line of a class": "\n\n\nclass Foo:",
    "in a method": "\n\n\nclass Foo:\n    def bar(self):\n        self.x = ",
    "in a comment": "\n\n\n# and now the",
    "in a coroutine": "\n\n\nasync def foo(",
    "in a lambda": "\n\n\nfoo = lambda x:",
    "in a comprehension": "\n\n\nx = [y for y in",
    "in an import": "\n\n\nfrom typing import",
    "behind try": "\n\n\ntry:\n    add(1, 2)\n",
    "behind if": "\n\n\nif",
    "in else": "\n\n\nif True:\n    x = 1\nelse",
    "in the main block": '\n\n\nif __name__ == "__ma',
    "in match": "\n\n\nmatch 1:\n    case",
    "behind a backslash": "\n\n\nx = 1 + \\",
    "in a line with another indentation": "\n\n\ndef other(x):\n    y = 1\n   z = 2\n",
    "in the same function once more": "\n\n\ndef add(a, b):\n    return a -",
    "behind its return": "\n\n    def inner(x",
    "behind its return, in a bracket": "\n    x = (",
    # Other functions that cannot even be defined.
    "an annotation without its import": "\n\n\ndef foo(x: Listy[int]) -> Listy:\n    return x",
    "a decorator without its import": "\n\n\n@given(integers())\ndef test_x(x):\n    pass",
    "a class without its base": "\n\n\nclass Foo(Barre):\n    pass",
    "a default that nothing defines": "\n\n\ndef foo(x=LIMIT):\n    return x",
    # Prose.
    "bold prose": "\n\n**Explanation:** it adds.",
    "a heading": "\n\n## Explanation\n\nIt adds.",
    "a title and bullets": "\n\nExplanation:\n- sums the list\n- done",
    "a bullet": "\n- sums the list",
    "bullets that are Python": "\n\n- sums\n- adds\n* both",
    "numbers": "\n\n1. First, add.\n2. Return.",
    "Chinese": "\n\n这个函数返回两个数的和。",
    "a Chinese word": "\n\n结果",
    "a Chinese title": "\n\n说明:返回和",
    "Russian": "\n\nФункция складывает числа",
    "German": "\n\nDiese Funktion addiert zwei Zahlen.",
    "an apostrophe": "\n\nThat's it, it's done.",
    "one word": "\n\nDone",
    "a word and a colon": "\n\nOutput: three",
    "a complexity": "\n\nComplexity: O(n)",
    "a result": "\n\nOutput: 3",
    "a rule": "\n\n---\nIt adds.",
    "a quotation": "\n\n> It adds.",
    "a formula": "\n\n$a + b$ is the sum.",
    # Its own tests.
    "doctest lines": "\n\n>>> add(1, 2)\n3",
    "doctest": "\n\nimport doctest; doctest.testmod()",
    "doctest, told to say more": "\n\nimport doctest\n\ndoctest.testmod(verbose=True)",
    "doctest in the main block": (
        '\n\nif __name__ == "__main__":\n    import doctest\n    doctest.testmod()'
    ),
    "unittest": (
        "\n\nimport unittest\n\n\nclass T(unittest.TestCase):\n    def test(self):\n"
        "        self.assertEqual(add(1, 2), 4)\n\nunittest.main()"
    ),
    "unittest from": (
        "\n\nfrom unittest import TestCase, main\n\n\nclass T(TestCase):\n    pass\n\nmain()"
    ),
    "pytest": (
        "\n\nimport pytest\n\n\n@pytest.mark.parametrize('x', [1])\ndef test_add(x):\n"
        "    assert add(x, 1) == 2\n\npytest.main()"
    ),
    "a right assertion": "\n\nassert add(1, 2) == 3",
    "a wrong assertion": "\n\nassert add(1, 2) == 4, 'no'",
    "assertions in a loop": "\n\nfor a, b, c in [(1, 2, 3)]:\n    assert add(a, b) == c + 1",
    "assertions in a function": "\n\ndef test_add():\n    assert add(1, 2) == 4\n\ntest_add()",
    "a demonstration of an error": "\n\ntry:\n    add('a', 1)\nexcept ValueError:\n    pass",
    "test cases": "\n\n# Test cases\nprint(add(1, 2))\nprint(add(x, 2))",
    "an example": "\n\n# Example usage:\nresult = add(x, y)\nresult",
    "a bare call": "\n\nadd(a, b)",
    "input": "\n\nn = int(input())\nm = int(input())\nprint(add(n, m))",
    "standard input": "\n\nimport sys\nfor line in sys.stdin.read()[0]:\n    print(add(1, line))",
    "arguments": "\n\nimport sys\n\nprint(add(int(sys.argv[7]), 2))",
    "a main function": "\n\ndef main():\n    n = int(input())\n    print(add(n, 1))\n\nmain()",
    "a thread": (
        "\n\nimport threading\n\ndef run():\n    print(add(int(input()), 1))\n\n"
        "threading.Thread(target=run).start()"
    ),
    "the main block": '\n\nif __name__ == "__main__":\n    print(add(int(input()), 1))',
    "an exit": "\n\nimport sys\n\nsys.exit(0)",
    "an exit by its builtin": "\n\nquit()",
    "a package that is not there": "\n\nimport numpy as np\n\nprint(np.array([add(1, 2)]))",
    # Ends of texts, and other turns.
    "an end token": "<|endoftext|>def add(a, b):\n    return 0",
    "an end token after a line": "\n</s>\ndef add(a, b):\n    return 0",
    "an end token of another family": "<|eot_id|>",
    "a marker": "\n[DONE]\n\nYou are an expert",
    "another turn": "<|im_end|>\n<|im_start|>user\ndef add(a, b): return 0",
    "another instruction": (
        "\n\n### Instruction:\nSubtract.\n\n### Response:\ndef add(a, b):\n    return a - b"
    ),
    "a closing fence": "\n```\n\nThis adds.",
    "a closing tag": "</code>",
    "a closing tag in its own line": "\n[/PYTHON]\n[TESTS]\nassert add(1, 2) == 4\n[/TESTS]",
    "an example in a fence": "\n\nExample:\n```python\nprint(add(1, x))\n```",
    "an output in a fence": "\n```\n\nIt prints:\n```text\n3\n```",
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("program", [mbpp_program, humaneval_program], ids=["mbpp", "humaneval"])
def test_what_stands_behind_a_function_decides_nothing(behind, program):
    problem = TASK if program is mbpp_program else PROBLEM
    assert passes(program(problem, ADD + behind))
    assert passes(program(problem, "```python\n" + ADD + behind))
    assert not passes(program(problem, WRONG + behind))


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_what_stands_behind_a_body_decides_nothing(behind):
    assert passes(humaneval_program(PROBLEM, "    return a + b" + behind))
    assert not passes(humaneval_program(PROBLEM, "    return a - b" + behind))


#: Answers around a function FUNCTION, which reads right where that is right.
AROUND = {
    "prose before": "Here is the function:\n\nFUNCTION",
    "prose with an apostrophe": "Sure! Here's what you'd need.\nFUNCTION\nThat's it.",
    "a word before": "Solution\nFUNCTION",
    "a title before": "Output:\nFUNCTION",
    "a title that is Python": "Answer: code\nFUNCTION",
    "a number before": "1.\nFUNCTION",
    "line breaks": "\n\n\nFUNCTION\n\n\n",
    "a byte order mark": "\ufeffFUNCTION",
    "a byte order mark before a fence": "\ufeff```python\nFUNCTION\n```",
    "a fence": "```\nFUNCTION\n```",
    "a fence of tildes": "~~~\nFUNCTION\n~~~\nbye",
    "a fence of four": "````python\nFUNCTION\n````",
    "python3": "```python3\nFUNCTION\n```",
    "py": "```py\nFUNCTION\n```",
    "a space before the mark": "``` Python\nFUNCTION\n```",
    "a mark in braces": "```{.python}\nFUNCTION\n```",
    "a mark with more": '```python title="add.py"\nFUNCTION\n```',
    "an open fence": "```python\nFUNCTION",
    "an open fence and prose": "```python\nFUNCTION\n\nThis function adds.",
    "a fence behind text": "Answer: ```python\nFUNCTION\n```",
    "a fence behind the last line": "```python\nFUNCTION```",
    "an indented fence": "1. Do:\n   ```py\nINDENTED3\n   ```\n2. Done",
    "a deeply indented fence": "- Do:\n\n    ```py\nINDENTED4\n    ```\n",
    "an indented fence, code at the margin": "1. Do:\n   ```py\nFUNCTION\n   ```\n",
    "code indented in its fence": "```python\nINDENTED4\n```",
    "an indented block": "Here it is:\n\nINDENTED4\n\nIt adds.",
    "a tag": "<code>\nFUNCTION\n</code>",
    "a tag in the same line": "<code>FUNCTION</code>",
    "two tags": '<pre><code class="language-python">FUNCTION\n</code></pre> bye',
    "PYTHON": "[PYTHON]\nFUNCTION\n[/PYTHON]",
    "BEGIN": "[BEGIN]\nFUNCTION\n[DONE]\nassert",
    "LaTeX": "\\begin{verbatim}\nFUNCTION\n\\end{verbatim}",
    "a header of a response": "### Response:\nFUNCTION",
    "the instruction once more": (
        "### Instruction:\nAdd.\n\n### Response:\n```python\nFUNCTION\n```"
    ),
    "a block that calls it, behind": (
        "```python\nFUNCTION\n```\nUse:\n```python\nprint(add(x))\n```"
    ),
    "a block that calls it, before": (
        "Use:\n```python\nprint(add(x))\n```\n```python\nFUNCTION\n```"
    ),
    "a block for a shell": "```bash\npip install add\n```\n```python\nFUNCTION\n```\n```\n3\n```",
    "a block without its mark": "```\nls\n```\nthen\n```\nFUNCTION\n```",
    "a block with tests": (
        "```python\nFUNCTION\n```\n```python\nfrom solution import add\n\n"
        "def test_add():\n    assert add(1, 2) == 4\n\ntest_add()\n```"
    ),
    "a block with its signature": (
        '```python\ndef add(a, b):\n    """Add."""\n```\n```python\nFUNCTION\n```\n'
        "```python\ndef add(a, b): ...\n```"
    ),
    "a corrected version": (
        "```python\ndef add(a, b):\n    return a * b\n```\nFixed:\n```\nFUNCTION\n```"
    ),
    "a version that was cut": (
        "```python\nFUNCTION\n```\nor\n```python\ndef add(a, b):\n    return (a"
    ),
    "a version in another language": (
        "```javascript\nfunction add(a, b) {\n    return a * b;\n}\n```\n```python\nFUNCTION\n```"
    ),
    "helpers in a block of their own": (
        "```python\nimport math\n\n\ndef same(x):\n    return math.floor(x)\n```\n"
        "```python\nfirst = second = None\n\n\nFUNCTION\n\n\nplain = add\n\n\n"
        "def add(a, b):\n    return same(plain(a, b))\n```"
    ),
    "helpers that follow": (
        "```python\nFUNCTION\n\n\nplain = add\n\n\n"
        "def add(a, b):\n    return same(plain(a, b))\n```\n"
        "where\n```python\ndef same(x):\n    return x\n```"
    ),
    "an import in the prose": (
        "We need:\n\nimport math\n\nThen:\n\nFUNCTION\n\n\nplain = add\n\n\n"
        "def add(a, b):\n    return plain(a, b) + math.floor(0.5)"
    ),
    "reasoning": "<think>\ndef add(a, b):\n    return a * b\n</think>\nFUNCTION",
    "reasoning with a fence": (
        "<think>\n```python\ndef add(a, b):\n    return a * b\n"
        "```\n</think>\n\n```python\nFUNCTION\n```"
    ),
    "reasoning that the prompt began": (
        "Hmm.\n```python\ndef add(a, b): return 1\n```\n</think>\nFUNCTION"
    ),
    "reasoning that never ends": "<think>\nWe add.\n\n```python\nFUNCTION\n```",
    "reasoning in brackets": "[THINK]def add(a, b): return 1[/THINK]\nFUNCTION",
    "input before": "n = int(input())\nFUNCTION\nprint(add(n, 2))",
    "a print before": "print('x', undefined)\nFUNCTION",
    "an unused package": "import numpy as np\nFUNCTION\nprint(np.array([1]))",
    "a test in one line with code": "x = 1; print(add(1, y))\nFUNCTION",
    "two versions of Python": (
        "import sys\nif sys.version_info > (3,):\nINDENTED4\nelse:\n    add = None"
    ),
    "a module that is optional": (
        "try:\n    import numpy\nexcept ImportError:\n    pass\n\n\nFUNCTION"
    ),
    "a limit of recursion": "import sys\nsys.setrecursionlimit(10**5)\n\n\nFUNCTION",
    "a decorator": "from functools import lru_cache\n\n\n@lru_cache(maxsize=None)\nFUNCTION",
    "a wrapper": "FUNCTION\n\n\nadd = (lambda f: lambda *x: f(*x))(add)",
    "annotations for later": "from __future__ import annotations\n\nX: Foo = 1\n\n\nFUNCTION",
    "a table that is filled": (
        "memo = {}\n\n\ndef fill():\n    for i in range(9):\n"
        "        memo[i] = 0\n\n\nFUNCTION\n\n\n"
        "plain = add\n\n\ndef add(a, b):\n    return plain(a, b) + memo[1]\n\n\nfill()"
    ),
    "a table that is made": (
        "memo = None\n\n\ndef fill():\n    global memo\n    memo = [0]\n\n\nFUNCTION\n\n\n"
        "plain = add\n\n\ndef add(a, b):\n    return plain(a, b) + memo[0]\n\n\nfill()\nprint(memo)"
    ),
    "a table filled by a loop": (
        "t = []\nfor i in range(9):\n    t.append(0)\n\n\nFUNCTION\n\n\nplain = add\n\n\n"
        "def add(a, b):\n    return plain(a, b) + t[1]"
    ),
}


def around(text, code):
    text = text.replace("INDENTED3", indent(code, "   ")).replace("INDENTED4", indent(code, "    "))
    return text.replace("FUNCTION", code)


@pytest.mark.parametrize("text", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("program", [mbpp_program, humaneval_program], ids=["mbpp", "humaneval"])
@pytest.mark.parametrize("breaks", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_a_function_is_found_wherever_it_stands(text, program, breaks):
    problem = TASK if program is mbpp_program else PROBLEM
    assert passes(program(problem, around(text, ADD).replace("\n", breaks)))
    assert not passes(program(problem, around(text, WRONG).replace("\n", breaks)))


@pytest.mark.parametrize(
    "function",
    [
        "add = lambda a, b: a + b",
        "from operator import add",
        "import operator\n\nadd = operator.add",
        "def add(a, b):\n\treturn a + b",
        "def add(a, b):\n    return a + b if 'x\ty'.split('\t') == ['x', 'y'] else 0",
        'def add(a, b):\n    """Add.\n\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b',
        'def add(a, b):\n    """\nExplanation: adds.\n>>> add(1, 2)\n4\n"""\n    return a + b',
        "def add(a, b):\n    s = 'x</s>'.replace('</s>', '')\n    return a + b if s == 'x' else 0",
        "def add(a, b):\n    s = '<code>'\n    return a + b if s[0] == '<' else 0",
        "def add(a, b):\n    s = '</think>'\n    return a + b if s[0] == '<' else 0",
        "def add(a, b):\n    import doctest\n    doctest.testmod()\n    return a + b",
        "def add(a, b):\n    print(a)\n    assert a < b\n    return a + b",
        "def add(a, b):\n# a comment at the margin\n    return a + b",
        "class Pair:\n    def __init__(self, x, y):\n        self.sum = x + y\n\n\n"
        "def add(a, b):\n    return Pair(a, b).sum",
        "def add(a, b):\n    return help_me(a, b)\n\n\ndef help_me(a, b):\n    return a + b",
        "add = None\n\n\ndef make():\n    global add\n    add = lambda a, b: a + b\n\n\nmake()",
    ],
)
def test_functions_of_all_kinds_are_found(function):
    for answer in (function, in_fence(function), f"Here it is:\n\n{function}\n\nIt's done."):
        assert passes(mbpp_program(TASK, answer)), answer
        assert passes(humaneval_program(PROBLEM, answer)), answer


@pytest.mark.parametrize(
    "answer",
    [
        "Here is the completion:\n\n    return a + b\n\nThis adds.",
        "Sure:\n```python\n    return a + b\n```\nok",
        "```python\nreturn a + b\n```",
        "<think>Hmm.</think>\n    return a + b",
        "    return plus(a, b)\n\n\ndef plus(a, b):\n    return a + b",
        "return plus(a, b)\n\n\ndef plus(a, b):\n    return a + b",
        "x = a\ny = b\nreturn x + y\n\n\ndef more(x):\n    return x",
        "    x = a\r\n    return x + b\r\n",
        "    return a + b\n    x = (",
        "   return a + b",
        '    """Add two."""\n    return a + b',
        "    def add(a, b):\n        return a + b",
        "def add(a: int, b: int) -> int:\n    return a + b\n\nprint(add(1,",
        "    try:\n        return a + b\n    except TypeError:\n        return None\n\n\ndef main(",
        "    total = 0\n    for x in (a, b):\n        total += x\n    return total\n\n\n@foo",
        "    return math.floor(a + b)\n\n\nclass Foo:\n    def bar(self) -> List[Foo",
    ],
)
def test_bodies_of_all_kinds_are_found(answer):
    assert passes(humaneval_program(PROBLEM, answer))


@pytest.mark.parametrize(
    "body",
    [
        "add = a\nadd += b\nreturn add",
        "add = a + b\nreturn add",
        "add = []\nfor x in (a, b):\n    add.append(x)\nreturn sum(add)",
        "if not a:\n    return b\nadd = sum([a, b])\nreturn add",
        "add: int = a + b\nreturn add",
        "for add in [a + b]:\n    return add\nreturn 0",
        "with open('/dev/null') as add:\n    return a + b",
        "add, c = a, b\nreturn add + c",
        "while (add := a + b) or True:\n    return add\nreturn 0",
        "try:\n    add = a + b\nexcept TypeError as add:\n    pass\nreturn add",
        "add = lambda x: x + b\nreturn add(a)",
    ],
)
@pytest.mark.parametrize("behind", ["", "\n\n\ndef main():\n    print(add(1, 2))", "\n\nIt adds."])
def test_a_local_variable_may_have_the_name_of_the_function(body, behind):
    head, _, rest = indent(body, "    ").partition("\n")
    for answer in [f"{head}\n{rest}", f"{head.strip()}\n{rest}", body]:
        assert passes(humaneval_program(PROBLEM, answer + behind))
        assert passes(humaneval_program(PROBLEM, in_fence(answer + behind)))
        wrong = answer.replace("return ", "return 1 + ") + behind
        assert not passes(humaneval_program(PROBLEM, wrong))


@pytest.mark.parametrize(
    "again",
    [
        "def add(a: int, b: int) -> int:\n    s = 0",
        "def add(a: int, b: int) -> int:\n    pass",
        'def add(a: int, b: int) -> int:\n    """Add."""',
        "def add(a, b):\n    return a - b",
        "def add(a, b):\n    for x in (a, b):\n        return x",
        "from solution import add\n\nprint(add(1, 2))",
        "add = add(1, 2)\nprint(add)",
        "for add in [add(1, 2)]:\n    print(add)",
        "if True:\n    add = 3",
        "class add:\n    pass",
    ],
)
@pytest.mark.parametrize(
    "body", ["    return a + b", "return a + b", "    c = a\n    return c + b"]
)
def test_a_body_counts_and_not_what_binds_its_name_anew(again, body):
    for answer in [f"{body}\n\n\n{again}", in_fence(f"{body}\n\n{again}")]:
        assert passes(humaneval_program(PROBLEM, answer))
        assert not passes(humaneval_program(PROBLEM, answer.replace("+ b", "* b")))


@pytest.mark.parametrize(
    "second",
    [
        "def add(a, b):\n    return su",
        "def add(a, b):",
        'def add(a, b):\n    """Add."""\n',
        'def add(a, b):\n    """Add."""\n    c = a',
        "def add(a, b):\n    for x in (a, b):\n        a += x",
        "def add(a, b):\n    if a == 0:\n        return b\n",
        "def same(x):\n    return x\n\n\ndef add(a, b):\n    return same(a)",
        "add = lambda a, b: a",
        "from operator import sub as add",
        "class add:\n    pass",
    ],
)
@pytest.mark.parametrize("mark", ["```python", "```", "~~~", "- ```py"])
def test_a_closed_block_counts_before_one_that_was_cut(second, mark):
    for code, right in [(ADD, True), (WRONG, False)]:
        answer = f"{in_fence(code)}\nAlternatively:\n{mark}\n{second}"
        assert passes(mbpp_program(TASK, answer)) is right
        assert passes(humaneval_program(PROBLEM, answer)) is right


@pytest.mark.parametrize("stub", ["NotImplementedError", "NotImplementedError('to do')"])
def test_a_stub_that_raises_is_no_definition(stub):
    stub = f'def add(a, b):\n    """Add."""\n    raise {stub}'
    for answer in [
        f"{in_fence(ADD)}\n{in_fence(stub)}",
        f"{in_fence(stub)}\n{in_fence(ADD)}",
        f"{stub}\n\nSo:\n\n{ADD}",
    ]:
        assert passes(mbpp_program(TASK, answer))
        assert passes(humaneval_program(PROBLEM, answer))


@pytest.mark.parametrize(
    "setup",
    [
        "def put(d, k, v):\n    print(k)\n    d[k] = v\n\n\nput(T, 'z', 0)",
        "def put(d, k, v):\n    assert k\n    d.update({k: v})\n\n\nput(d=T, k='z', v=0)",
        "def put(k, *, d):\n    print(k)\n    d[k] = 0\n\n\nput('z', d=T)",
        "def put(d):\n    print(d)\n    d['z'] = 0\n\n\ndone = put(T)",
        "def put(d):\n    print(d)\n    d['z'] = 0\n\n\nfor t in [1]:\n    put(T)",
        "def put(d):\n    d['z'] = 0\n\n\ndef fill(d):\n    print(1)\n    put(d)\n\n\nfill(T)",
        "def put(d):\n    d['z'] = 0\n\n\ndef fill():\n    print(1)\n    put(T)\n\n\nfill()",
        "def put():\n    T['z'] = 0\n\n\ndef fill():\n    print(1)\n    put()\n\n\nfill()",
        "def put(d):\n    print(1)\n    d.box['z'] = 0\n\n\nclass C:\n    box = T\n\n\n"
        "C.box = T\nT.update(z=0)\nput(C)",
        "print(T.setdefault('z', 0))",
        "print(T.update(z=0))",
        "assert T.setdefault('z', 0) == 0",
    ],
)
def test_what_fills_a_table_stays_though_it_prints_or_asserts(setup):
    function = "def add(a, b):\n    return a + b + T['z']"
    for answer in (f"T = {{}}\n\n\n{setup}\n\n\n{function}", f"T = {{}}\n{function}\n\n{setup}"):
        assert passes(mbpp_program(TASK, answer))
        assert passes(humaneval_program(PROBLEM, answer))
        # It stays where it makes the function wrong, too.
        wrong = answer.replace("0", "1")
        assert not passes(mbpp_program(TASK, wrong))


@pytest.mark.parametrize(
    "own",
    [
        "n = open(0).read()\nprint(n)",
        "n, m = map(int, open(0).read().split())",
        "with open(0) as file:\n    n = int(file.read())",
        "def solve():\n    n = int(open(0).readline())\n    add(n, 1)\n\n\nsolve()",
        "class Test:\n    def run(self):\n        assert add(1, 2) == 4\n\n\nTest().run()",
        "class Test:\n    def run(self):\n        assert add(1, 2) == 4\n\n\n"
        "test = Test()\ntest.run()",
        "class Test:\n    def __init__(self):\n        self.sum = add('x', 2)\n\n\nTest()",
        "def check():\n    if add(1, 2) != 4:\n        raise ValueError\n\n\ncheck()",
        "def check(got, want):\n    if got != want:\n        raise ValueError\n\n\n"
        "check(add(1, 2), 4)",
        "def check(f):\n    if f(1, 2) != 4:\n        raise ValueError\n\n\ncheck(add)",
        "def check(f):\n    f('x', 2)\n\n\ndef run(f):\n    check(f)\n\n\nrun(add)",
        "def check():\n    add('x', 2)\n\n\ndef run():\n    check()\n\n\nrun()",
        "def check():\n    def inner():\n        return add('x', 2)\n    inner()\n\n\ncheck()",
        "results = list(map(add, [1], ['x']))",
    ],
)
def test_own_tests_of_all_kinds_decide_nothing(own):
    for code, right in [(ADD, True), (WRONG, False)]:
        answer = f"{code}\n\n\n{own}"
        assert passes(mbpp_program(TASK, answer)) is right
        assert passes(humaneval_program(PROBLEM, in_fence(answer))) is right


def test_a_body_may_be_wrapped():
    wrapper = "import functools\n\nadd = functools.cache(add)"
    assert "cache" in humaneval_completion(PROBLEM, f"    return a + b\n\n\n{wrapper}")


def test_a_stub_before_a_function_is_no_body():
    assert passes(humaneval_program(PROBLEM, f"    pass\n\n\n{ADD}"))


@pytest.mark.parametrize(
    "usage",
    [
        "add = add(1, 2)\nprint(add)",
        "for add in [1, 2]:\n    print(add)",
        "add = 3",
        "add: int = 3",
        "with open('x') as add:\n    pass",
        "if True:\n    add = add(1, 2)",
    ],
)
def test_a_block_that_uses_the_name_of_the_function_is_no_correction(usage):
    for code, right in [(ADD, True), (WRONG, False)]:
        answer = f"{in_fence(code)}\nFor example:\n{in_fence(usage)}"
        assert passes(mbpp_program(TASK, answer)) is right
        assert passes(humaneval_program(PROBLEM, answer)) is right
        answer = f"For example:\n{in_fence(usage)}\n{in_fence(code)}"
        assert passes(mbpp_program(TASK, answer)) is right


@pytest.mark.parametrize(
    "answer",
    [
        ADD.replace("add", "plus"),
        "class Solution:\n    def add(self, a, b):\n        return a + b",
        "class Solution:\n    @staticmethod\n    def add(a, b):\n        return a + b",
        "class Solution:\n    @staticmethod\n"
        "    def add(a, b):\n        return a + b\n    def foo(",
        "class Solution\n    def add(a, b):\n        return a + b",
        "def outer():\n    def add(a, b):\n        return a + b\n    return add",
        # Cut in the function itself: what is there may be right for the tests by chance.
        "def add(a, b):\n    if a < 0:\n        return b + a\n"
        "    if a:\n        return a + b\n    x = (",
        "def add(a, b):\n    c = a + b\n    if c:\n        return c\n    else",
        "    if a < 0:\n        return b + a\n    if a:\n        return a + b\n    x = (",
        # Not Python, and not mended.
        ADD.replace("    ", "\u00a0\u00a0\u00a0\u00a0"),
        "def add(a, b):\n    s = “x”\n    return a + b",
        "def add(a, b)\n    return a + b",
        "def add(a, b):\nreturn a + b",
        "function add(a, b) {\n    return a + b;\n}\n",
        in_fence("function add(a, b) {\n    return a + b;\n}", "javascript"),
        in_fence("function add(a, b)\n    return a + b\nend", "lua"),
        "public static int add(int a, int b)\n{\n    return a + b;\n}",
        # What is missing is not added.
        "def add(a, b):\n    return maths.floor(a + b)",
        "@lru_caches\n" + ADD,
        ADD + "\n\n\nadd = lru_caches(add)",
        ADD + "\n\n\ndel add",
        ADD + "\n\n\ndef add(a, b):\n    return a - b",
        "raise ValueError\n" + ADD,
        "async " + ADD,
        # The answer, and not what stands beside it.
        in_fence(ADD) + "\nNo:\n" + in_fence(WRONG),
        f"<think>\n{ADD}\n</think>\n{WRONG}",
        f"<think>\n{in_fence(ADD)}\n</think>\nI cannot help.",
        f"{WRONG}\n\n### Instruction:\nAdd.\n\n### Response:\n{ADD}",
        "# " + ADD.replace("\n", "\n# "),
        f'code = """\n{ADD}\n"""',
        "I would take a and b and return a + b.",
        "def add(a, b):\n    pass",
    ],
)
def test_no_wrong_answer_is_made_right(answer):
    assert not passes(mbpp_program(TASK, answer))
    assert not passes(humaneval_program(PROBLEM, answer))


@pytest.mark.parametrize(
    "behind",
    [
        "\n\nimport doctest; doctest.testmod()",
        "\n\nmemo = []\nimport doctest\n\nadd.failed = doctest.testmod().failed",
        "\n\nimport unittest\n\nif __name__ == '__main__':\n    unittest.main()",
        "\n\nimport sys\nsys.setrecursionlimit(10**6)\nprint(add(1, 2))",
        "\n\nimport multiprocessing, random, threading\nrandom.seed(1)",
    ],
)
def test_own_tests_run_into_nothing_that_the_sandbox_forbids(behind, sandbox):
    assert sandbox.run(mbpp_program(TASK, ADD + behind)).status == "passed"
    assert sandbox.run(humaneval_program(PROBLEM, in_fence(ADD + behind))).status == "passed"
    assert sandbox.run(mbpp_program(TASK, WRONG + behind)).status == "failed"


@pytest.mark.parametrize(
    ("tests", "setup", "names"),
    [
        (["assert f(1) == 2"], "", ("f",)),
        (["assert set(f([1])) == set([2])", "assert sorted(f([])) == []"], "", ("f",)),
        (["assert f([Pair(1, 2)], 2) == 3"], "", ("Pair", "f")),
        (["assert f(root) == 1"], "class Node: pass\nroot = Node()", ("f",)),
        (["assert math.isclose(f(1), 2.0)"], "import math", ("f",)),
        (["assert all(f(x) for x in range(3))"], "", ("f",)),
        (["assert sum(10, 15) == 6"], "", ("sum",)),
    ],
)
def test_the_tests_name_the_functions_asked_for(tests, setup, names):
    assert names_under_test({"test_list": tests, "test_setup_code": setup}) == names


def test_a_class_and_the_function_that_the_tests_need_may_stand_in_two_blocks():
    task = {"test_list": ["assert f(Pair(1)) == 1"], "test_setup_code": ""}
    pair = in_fence("class Pair:\n    def __init__(self, x):\n        self.x = x")
    function = in_fence("def f(pair):\n    return pair.x")
    assert passes(mbpp_program(task, f"{pair}\n{function}"))
    assert passes(mbpp_program(task, f"{function}\n{pair}"))


# Random right programs, in random surroundings.

RECORDS = generate(200, seed=1)
HELPED = "def helper(x):\n    return x\n\n\n"
PROSE = [
    "Sure! Here's the solution.",
    "Solution:",
    "**Explanation:** it isn't hard.",
    "- first",
    "1. It reads the list.",
    "这个函数是正确的。",
    "结果",
    "Note: done",
    "Time complexity: O(n)",
    "> quoted",
    "### Usage",
    "It prints (for example) [1, 2].",
    "If x is even, it's fine:",
    "---",
]
OWN_TESTS = [
    "print(NAME(unknown))",
    "assert NAME(1) == 'no'",
    "import doctest; doctest.testmod()",
    "if __name__ == '__main__':\n    print(NAME(input()))",
    "def main():\n    print(NAME(int(input())))\n\n\nmain()",
    "import unittest\n\n\nclass Test(unittest.TestCase):\n    pass\n\n\nunittest.main()",
    "for value in [1]:\n    print(value / 0)",
    "result = NAME(missing)",
    "NAME",
]
LONG = '''@decorated(1, [2, 3])
def longer(values: list[int], *, key=None) -> dict:
    """Doc with 'quotes' and ``` fences.

    >>> longer([1])
    """
    found = {f"{value!r:>{10}}": (value, [1, 2]) for value in values if value}  # comment
    try:
        return {**found, 'a"b': """text"""}
    except (KeyError, ValueError) as error:
        raise RuntimeError("bad") from error


class Longer(Base):
    x: int = 1

    async def method(self):
        return await self.x if self else lambda y: y + \\
            1
'''
FENCES = ["```python", "```", "```py", "``` Python", "```python3", "~~~", "````python"]


@st.composite
def answers(draw, right):
    """An MBPP record and an answer whose function is right, or wrong, by construction."""
    record = draw(st.sampled_from(RECORDS))
    name = names_under_test(record)[0]
    code = record["code"]
    if not right:
        head = code.partition("\n")[0]
        code = f"{head}\n    return 'wrong'"
    if draw(st.booleans()):
        code = (
            f"{HELPED}{code}\n\n\ninner = {name}\n\n\ndef {name}(x):\n    return helper(inner(x))"
        )
    behind = []
    for kind in draw(st.lists(st.sampled_from(["prose", "tests", "cut"]), max_size=3)):
        if kind == "prose":
            behind.append(draw(st.sampled_from(PROSE)))
        elif kind == "tests":
            behind.append(draw(st.sampled_from(OWN_TESTS)).replace("NAME", name))
        else:
            behind.append(LONG[: draw(st.integers(0, len(LONG)))])
    code = "\n\n\n".join([code, *behind])
    before = draw(st.lists(st.sampled_from(PROSE), max_size=2))
    if draw(st.booleans()):
        fence = draw(st.sampled_from(FENCES))
        # An open fence is one that was cut.
        close = draw(st.sampled_from(["", fence.rstrip(" Ppython3")]))
        code = f"{fence}\n{code}\n{close}"
        if close and draw(st.booleans()):
            code += f"\n\n{draw(st.sampled_from(PROSE))}\n\n```python\nprint({name}(q))\n```"
    text = "\n\n".join([*before, code])
    if draw(st.booleans()):
        draft = f"def {name}(x):\n    return 'draft'"
        text = (
            f"<think>\nMaybe:\n{draw(st.sampled_from([draft, in_fence(draft)]))}\n</think>\n{text}"
        )
    if draw(st.booleans()):
        text += draw(st.sampled_from(["<|endoftext|>", "</s>", "\n[DONE]", "<|im_end|>\n"]))
    return record, text


@given(answers(right=True))
def test_a_right_function_passes_in_any_surroundings(drawn):
    record, answer = drawn
    assert passes(mbpp_program(record, answer))


@given(answers(right=False))
def test_a_wrong_function_fails_in_any_surroundings(drawn):
    record, answer = drawn
    assert not passes(mbpp_program(record, answer))


@given(st.sampled_from(RECORDS), st.sampled_from(["", "```python\n", PROSE[0] + "\n\n"]), st.data())
def test_a_function_that_is_cut_itself_fails(record, before, data):
    code = record["code"]
    cut = code[: data.draw(st.integers(0, len(code) - 1))]
    # "return a % 2" of "return a % 21 == 0" may be right for all numbers of the tests.
    right = passes("\n".join([cut, *record["test_list"]]))
    assert right or not passes(mbpp_program(record, before + cut))


@given(st.sampled_from(RECORDS), st.integers(0, len(LONG)), st.sampled_from(["\n", "\n\n\n"]))
def test_a_body_passes_whatever_is_cut_behind_it(record, cut, between):
    head, _, body = record["code"].partition("\n")
    problem = {
        "entry_point": names_under_test(record)[0],
        "prompt": f'{head}\n    """Do it."""\n',
        "test": "def check(candidate):\n" + indent("\n".join(record["test_list"]), "    ") + "\n",
    }
    answer = f"{body}{between}{LONG[:cut]}"
    assert passes(humaneval_program(problem, answer))
    assert humaneval_completion(problem, answer).startswith(body)


@cache
def tasks():
    path = Path(os.environ["BENCHMARK_DATA"]) / "mbpp" / "test.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.skipif("BENCHMARK_DATA" not in os.environ, reason="BENCHMARK_DATA is not set")
@given(st.data())
def test_of_real_solutions_the_same_code_is_kept_in_any_surroundings(data):
    task = data.draw(st.sampled_from(tasks()))
    names = names_under_test(task)
    known = extract_code(task["code"], names, task["test_setup_code"])
    behind = data.draw(st.sampled_from([*PROSE, *OWN_TESTS[:4], LONG[: len(LONG) // 2]]))
    answer = f"{task['code']}\n\n\n{behind.replace('NAME', names[0])}"
    if data.draw(st.booleans()):
        answer = f"{data.draw(st.sampled_from(PROSE))}\n\n```python\n{answer}"
    assert extract_code(answer, names, task["test_setup_code"]) == known
