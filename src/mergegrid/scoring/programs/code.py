"""Code out of answers, and the program that decides about it.

The rule for the code of an answer, which is prose, code, or both:

1. A fenced block, if there is one: the first that is marked as Python, else the first. Models give
   the solution first; later blocks show how to call it and what it prints. A fence that only closes
   (the prompt opened it) ends the code; one that only opens (the answer was cut) runs to the end.
2. Else the answer itself, from its first line of code if whole functions are in it, to the first
   line that belongs to no solution: prose, the next task, a print or an assert at the left margin.
3. Both end before `if __name__ == ...`, `# Example usage` and a token that ends a text.
"""

import ast
import re
import warnings
from collections.abc import Mapping
from itertools import dropwhile
from textwrap import dedent, indent
from typing import Any

_FENCE = re.compile(r"^( *)(?:```|~~~) *([\w+-]*)[^\n`]*$", re.MULTILINE)
_PYTHON = {"python", "py", "python3", "python2"}
_ENDS = re.compile(
    r"^if __name__\b|^# ?(?:Example|Sample) usage|^# ?Test cases?\b|^\[DONE\]"
    r"|<\|(?:endoftext|end_of_text|im_end|eot_id|file_separator)\|>|</s>|<file_sep>",
    re.MULTILINE | re.IGNORECASE,
)
# After the first line, at the left margin. Two words of which the first has a capital are prose.
_STOPS = re.compile(
    r"\n(?:print\b|assert\b|\"\"\"|'''|#{2,} |</?\w+>|\[[A-Z]+\]|>>> "
    r"|[A-Z][\w']* +(?!=|if\b|for\b|and\b|or\b|in\b|is\b|not\b)[\w'`]|[A-Z][\w ]*: *\n)"
)
_STARTS = re.compile(r"^(?:(?:async def|def|class|import|from) |@\w)", re.MULTILINE)
_AFTER_A_BODY = re.compile(r"\n(?=[^\s)\]}])")
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
_INDENT = "    "


def code_of(answer: str) -> str:
    """The code in an answer, by the rule above; it may be the body of a function alone."""
    text = answer.replace("\r\n", "\n")
    block = _fenced(text)
    code = _bare(text) if block is None else block
    end = _ENDS.search(code)
    return _trimmed(code[: end.start()] if end else code)


def humaneval_completion(problem: Mapping[str, str], answer: str) -> str:
    """What follows the prompt of a HumanEval problem: its function once more, or only a body.

    A body keeps its indentation; where the model dropped that of the first line or of all lines,
    it is put back.
    """
    code = code_of(answer)
    if _defines(code, problem["entry_point"]):
        # It may only stand at the top of a program, and here the prompt stands there.
        return _FUTURE.sub("", code)
    candidates = [indent(dedent(code), _INDENT), _INDENT + code.lstrip(" \t")]
    if code.startswith((" ", "\t")):
        code = _until(_AFTER_A_BODY, code)
        candidates = [code, indent(dedent(code), _INDENT), _INDENT + code.lstrip(" \t")]
    whole = (each for each in candidates if _is_python(problem["prompt"] + each))
    return next(whole, candidates[0])


def humaneval_program(problem: Mapping[str, str], answer: str) -> str:
    """The program that ends well if an answer solves a problem of HumanEval.

    Args:
        problem: With the prompt, the tests and the name of the function, `entry_point`.
        answer: The model's text.
    """
    completion = humaneval_completion(problem, answer)
    return "\n".join(
        [problem["prompt"] + completion, "", problem["test"], f"check({problem['entry_point']})\n"]
    )


def mbpp_program(problem: Mapping[str, Any], answer: str, setup: bool = True) -> str:
    """The program that ends well if an answer solves a problem of MBPP.

    Args:
        problem: With the tests, `test_list`, and what they build on, `test_setup_code`.
        answer: The model's text.
        setup: Run what the tests build on. Without it, as in the harness of bigcode, problem 367
            cannot be solved.
    """
    before = [problem["test_setup_code"]] if setup else []
    # The empty line keeps a backslash at the end of the code from swallowing a test.
    return "\n".join([code_of(answer), "", *before, *problem["test_list"], ""])


def _fenced(text: str) -> str | None:
    fences = list(_FENCE.finditer(text))
    if not fences:
        return None
    before = text[: fences[0].start()]
    if not fences[0][2] and before.strip():
        after = text[fences[0].end() :]
        # Followed by an opening one or by none, a fence without a mark is a closing one.
        opens_next = len(fences) > 1 and fences[1][2]
        if opens_next or (len(fences) == 1 and not _STARTS.search(after)):
            return before
    blocks: list[tuple[str, str]] = []
    opening: re.Match[str] | None = None
    for fence in [*fences, None]:
        if opening is not None:
            end = fence.start() if fence else len(text)
            blocks.append((opening[2].lower(), _block(text[opening.end() : end], len(opening[1]))))
        opening = fence if opening is None or (fence and fence[2]) else None
    marked = (block for mark, block in blocks if mark in _PYTHON)
    return next(marked, blocks[0][1])


def _block(text: str, margin: int) -> str:
    """The lines of a block without the margin of the fence that opened it."""
    return re.sub(rf"^ {{0,{margin}}}", "", text, flags=re.MULTILINE)


def _bare(text: str) -> str:
    text = _trimmed(text)
    start = _STARTS.search(text)
    if start and not text.startswith((" ", "\t")) and not _is_body(text[: start.start()]):
        text = text[start.start() :]
    return _until(_STOPS, text)


def _until(stop: re.Pattern[str], code: str) -> str:
    """The code before the first stop that does not lie in a docstring."""
    for found in stop.finditer(code + "\n"):
        before = code[: found.start()]
        if before.count('"""') % 2 == 0 and before.count("'''") % 2 == 0:
            return before
    return code


def _is_body(lines: str) -> bool:
    """Whether lines are code, be it that the first one, or all, lost their indentation."""
    head = "def function():\n"
    return any(
        _is_python(head + body) for body in (indent(lines, _INDENT) + "\n    ...", _INDENT + lines)
    )


def _trimmed(code: str) -> str:
    """Without empty lines at both ends; the indentation of the first line stays."""
    return "\n".join(dropwhile(lambda line: not line.strip(), code.rstrip().split("\n")))


def _defines(code: str, name: str) -> bool:
    name = re.escape(name)
    pattern = rf"^(?:(?:async +)?def +{name} *\(|{name} *(?::[^=\n]+)?=(?!=))"
    return re.search(pattern, code, re.MULTILINE) is not None


def _is_python(code: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True
