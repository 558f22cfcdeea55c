"""Code out of answers, and the program that decides about it.

The rule for the code of an answer, which is prose, code, or both:

1. Reasoning that is marked as such is left out, and so is what follows the end of the answer.
2. Of the fenced blocks that define the function asked for, the last one counts: an answer that
   corrects itself does so further down. A block that is still open at the end may have been cut
   off, and counts if no other one does. Outside of blocks the first definition counts, because
   models that do not stop go on with other tasks.
3. A piece of code is the longest beginning that compiles and cuts no statement in two.
4. Other pieces that define what this one reads, such as helpers and imports, stand with it, in the
   order of the answer.
5. The solution's own tests are left out (`pruning`). Nothing is mended or added.

A function is defined at the left margin, by a `def`, a class or an import. Assignments define it
only where nothing else does, since a local variable or a usage example may have its name. A method
of a class `Solution` is another interface than the tests ask for, and fails as in other harnesses.
"""

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import dropwhile
from textwrap import dedent, indent
from typing import Any

from mergegrid.study.grading.programs.names import (
    BUILTINS,
    bound,
    is_import,
    is_installed,
    reads,
    unresolved,
)
from mergegrid.study.grading.programs.passages import Passage, indented, readings
from mergegrid.study.grading.programs.pruning import without_own_tests
from mergegrid.study.grading.programs.syntax import (
    first_line,
    longest_beginning,
    parse,
    returns,
    runs,
)

_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
_INDENT = "    "
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@lru_cache(maxsize=16)
def code_of(answer: str, names: tuple[str, ...] = (), setup: str = "") -> str:
    """The code in an answer, by the rule above; where no function is found, its likeliest part.

    Args:
        answer: The model's text.
        names: The functions asked for; none stands for any function.
        setup: Code that runs before the functions are called.
    """
    known = bound(*_body_of(setup))
    found = (
        _solution(passages, names, known, assigned=assigned)
        for assigned in (False, True)
        for passages in readings(answer)
    )
    return next((each for each in found if each is not None), None) or _likeliest(answer)


def names_under_test(problem: Mapping[str, Any]) -> tuple[str, ...]:
    """The functions and classes that the tests of a problem of MBPP call and do not define.

    Built-in functions are among them only if the tests call nothing else: then they are asked for
    anew, like `sum` in problem 126.
    """
    body = _body_of("\n".join([problem.get("test_setup_code", ""), *problem["test_list"]]))
    called = {
        node.func.id
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    asked = called - bound(*body)
    return tuple(sorted(asked - BUILTINS or asked))


def humaneval_completion(problem: Mapping[str, str], answer: str) -> str:
    """What follows the prompt of a HumanEval problem: its function once more, or only a body.

    A body keeps its indentation; where the model dropped that of the first line or of all lines,
    it is put back.
    """
    # An import from __future__ may only stand at the top of a program, where the prompt stands.
    return _FUTURE.sub("", _completion(problem["prompt"], problem["entry_point"], answer))


def humaneval_program(problem: Mapping[str, str], answer: str) -> str:
    """The program that ends well if an answer solves a problem of HumanEval.

    Args:
        problem: With the prompt, the tests and the name of the function, `entry_point`.
        answer: The model's text.
    """
    prompt, name = problem["prompt"], problem["entry_point"]
    program = _future_first(prompt + _completion(prompt, name, answer))
    return "\n".join([program, "", problem["test"], f"check({name})\n"])


def mbpp_program(problem: Mapping[str, Any], answer: str, setup: bool = True) -> str:
    """The program that ends well if an answer solves a problem of MBPP.

    Args:
        problem: With the tests, `test_list`, and what they build on, `test_setup_code`.
        answer: The model's text.
        setup: Run what the tests build on. Without it, as in the harness of bigcode, problem 367
            cannot be solved.
    """
    before = problem["test_setup_code"]
    code = code_of(answer, names_under_test(problem), before)
    # The empty line keeps a backslash at the end of the code from swallowing a test.
    return "\n".join([code, "", *([before] if setup else []), *problem["test_list"], ""])


def _solution(
    passages: Sequence[Passage],
    names: Collection[str],
    known: Collection[str],
    prompt: str = "",
    assigned: bool = False,
) -> str | None:
    """The code that defines the functions asked for, with what it needs, without its own tests."""
    pieces = _pieces(passages, names, assigned)
    if pieces is None:
        return None
    code = _future_first(_with_what_it_needs(*pieces, names, set(known)))
    return _pruned(prompt, code, names, known)


def _pruned(prompt: str, code: str, names: Collection[str], known: Collection[str]) -> str:
    future = "".join(_FUTURE.findall(code))
    program = prompt + _FUTURE.sub("", code)
    tree = parse(program)
    if tree is None:
        return code
    program = without_own_tests(program, tree, names, known, start=prompt.count("\n"))
    return future + program.removeprefix(prompt).strip("\n")


def _pieces(
    passages: Sequence[Passage], names: Collection[str], assigned: bool
) -> tuple[list[str], int] | None:
    """The pieces of code in an answer, and the number of that with the functions asked for."""
    groups = [(each, _runs(each.text)) for each in passages]
    closed = [pieces for each, pieces in groups if each.fenced and each.closed]
    opened = [pieces for each, pieces in groups if each.fenced and not each.closed]
    bare = [pieces for each, pieces in groups if not each.fenced]
    aside = [runs(dedent(group)) for each in passages for group in indented(each.text)]
    for pieces in [*reversed(closed), *opened, *bare]:
        for piece in pieces:
            if _defines(piece, names, assigned):
                every = [each for _, some in groups for each in some]
                return every, next(at for at, each in enumerate(every) if each is piece)
    for pieces in aside:
        for at, piece in enumerate(pieces):
            if _defines(piece, names, assigned):
                return pieces, at
    return None


def _runs(text: str) -> list[str]:
    """The pieces of code in a text, which may be indented as a whole."""
    plain = dedent(text)
    return runs(text) or (runs(plain) if plain != text else [])


def _with_what_it_needs(
    pieces: Sequence[str], chosen: int, names: Collection[str], known: set[str]
) -> str:
    trees = [_body_of(piece) for piece in pieces]
    taken = {chosen}
    # The nearest one counts, and what comes later must not define the functions anew.
    others = [*range(chosen - 1, -1, -1)]
    others += [at for at in range(chosen + 1, len(pieces)) if not bound(*trees[at]) & set(names)]
    while True:
        body = [statement for at in sorted(taken) for statement in trees[at]]
        missing = unresolved(body, known) | (set(names) - bound(*body))
        new = next((at for at in others if at not in taken and bound(*trees[at]) & missing), None)
        if new is None:
            return "\n\n\n".join(pieces[at].strip("\n") for at in sorted(taken))
        taken.add(new)


def _defines(piece: str, names: Collection[str], assigned: bool) -> bool:
    """Whether code defines one of the functions asked for, and more than its signature.

    Args:
        piece: The code.
        names: The functions; none stands for any function.
        assigned: Count assignments and loops as well as definitions and imports.
    """
    for statement in _unfolded(_body_of(piece)):
        if isinstance(statement, _DEFINITIONS):
            found = not names or statement.name in names
        else:
            found = (assigned or is_import(statement)) and bool(bound(statement) & set(names))
        if found and not _is_empty(statement):
            return True
    return False


def _unfolded(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, with those inside an `if`, a `try` and the like."""
    rest: list[ast.AST] = [*body]
    while rest:
        node = rest.pop(0)
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, _DEFINITIONS):
            kinds = (ast.stmt, ast.ExceptHandler, ast.match_case)
            rest += [each for each in ast.iter_child_nodes(node) if isinstance(each, kinds)]


def _is_empty(statement: ast.stmt) -> bool:
    match statement:
        case ast.FunctionDef(body=body) | ast.AsyncFunctionDef(body=body):
            return all(
                isinstance(each, ast.Pass)
                or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
                or (isinstance(each, ast.Raise) and "NotImplementedError" in reads(each))
                for each in body
            )
        case ast.AnnAssign(value=None):
            return True
        case ast.Import() | ast.ImportFrom():
            return not is_installed(statement)
    return False


def _completion(prompt: str, name: str, answer: str) -> str:
    known = bound(*_body_of(prompt))
    for passages in readings(answer):
        # A body comes before a function that follows it in the same passage.
        others = [each for each in passages if not _bodies(prompt, name, each.text)]
        found = _solution(others, (name,), known, prompt) or _body(prompt, name, passages)
        if found := found or _solution(passages, (name,), known, prompt, assigned=True):
            return found
    return indent(dedent(_likeliest(answer)), _INDENT)


def _body(prompt: str, name: str, passages: Sequence[Passage]) -> str | None:
    """The body of the function that a prompt begins, and what follows it."""
    for passage in passages:
        texts = [passage.text, *indented(passage.text)]
        bodies = [each for text in texts for each in _bodies(prompt, name, text)]
        if bodies:
            longest = max(bodies, key=lambda each: each.count("\n"))
            return _pruned(prompt, _first_version(prompt, name, longest), (name,), ())
    return None


def _bodies(prompt: str, name: str, text: str) -> list[str]:
    """The ways to read a text, from its first line, as a body that returns something."""
    found = (longest_beginning(shape, prompt) for shape in _shapes(_trimmed(text)))
    return [each for each in found if _returns(prompt + each, name)]


def _first_version(prompt: str, name: str, body: str) -> str:
    """A body and what follows it, up to where the name of its function is bound anew."""
    start = prompt.count("\n")
    for statement in _body_of(prompt + body):
        line = first_line(statement) - 1
        if line >= start and name in bound(statement) and not _is_wrapped(statement, name):
            return "\n".join(body.split("\n")[: line - start])
    return body


def _is_wrapped(statement: ast.stmt, name: str) -> bool:
    """Whether a statement is like `name = cache(name)`."""
    match statement:
        case ast.Assign(value=ast.Call(args=arguments)):
            return any(isinstance(each, ast.Name) and each.id == name for each in arguments)
    return False


def _shapes(body: str) -> Iterator[str]:
    """A body as it is, or with the indentation that its first line or all lines have lost."""
    if body.startswith(" "):
        yield body
    yield _INDENT + body.lstrip(" ")
    yield indent(dedent(body), _INDENT)


def _returns(program: str, name: str) -> bool:
    functions = [each for each in _body_of(program) if isinstance(each, _DEFINITIONS)]
    return any(map(returns, [each for each in functions if each.name == name][:1]))


def _likeliest(answer: str) -> str:
    """What an answer without the function asked for is taken for: a block, or all of it."""
    passages = next(readings(answer))
    best = [*(each for each in passages if each.fenced), *passages]
    text = _trimmed(best[0].text) if best else ""
    tree = parse(text)
    return without_own_tests(text, tree, (), ()) if tree else text


def _future_first(code: str) -> str:
    lines = [each.rstrip("\n") + "\n" for each in _FUTURE.findall(code)]
    return "".join(lines) + _FUTURE.sub("", code) if lines else code


def _trimmed(code: str) -> str:
    """Without empty lines at both ends; the indentation of the first line stays."""
    return "\n".join(dropwhile(lambda line: not line.strip(), code.rstrip().split("\n")))


def _body_of(code: str) -> list[ast.stmt]:
    tree = parse(code)
    return tree.body if tree else []
