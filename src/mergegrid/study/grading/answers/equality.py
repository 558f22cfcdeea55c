r"""Decide whether two formulas are equal, by math-verify and SymPy, in bounded work.

    (x+1)^2    x^2+2x+1     equal
    2x-y+3=0   y=2x+3       equal: one equation up to a factor
    x^2=8      8            different: an equation and an expression

Formulas that are not spelled the same count as different if one is longer than 200 characters or
has parts that a single call could work on forever (powers of powers, powers beyond 1,000, large
factorials or binomials, sums, products, limits, integrals), or if comparing them takes more than
4 million calls of Python functions, which is some seconds. Calls are counted, and not seconds, so
that the verdict does not depend on how busy the machine is; math-verify's own time limit also
needs signals, which only the main thread receives.
"""

import inspect
import logging
import math
import re
import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

LONGEST = 200
"""Characters of the longest formula that is parsed."""
MOST_CALLS = 4_000_000
"""Number of calls and returns of functions after which formulas count as different."""
_LARGEST_POWER = 1000

# Its only warning is that no time limit is set.
logging.getLogger("math_verify").setLevel(logging.ERROR)

PROSE = re.compile(r"(?<![\\A-Za-z])(?<!\\begin\{)(?<!\\end\{)[A-Za-z]{3,}")
r"""A word, which no formula contains: `feet`, not `\frac` or `\begin{pmatrix}`."""
# `x < 3`, `x \in A`
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|in|lt|gt|equiv|sim|mid)(?![a-z])")

_COSTLY = re.compile(
    r"\^\s*(?:\{[^{}]*\^|\w\s*\^)"  # 2^{3^4}, 2^3^4
    r"|\^.*\d{5}|\d{5}.*\^"  # x^{12345}, 12345^2
    r"|\d{3,}\s*!|!\s*!|[^\d\s]\s*!"  # 100!, 5!!, n!
    r"|binom.*\d{4}"  # \binom{1000}{2}
    r"|\\(?:sum|prod|int|lim|iint|oint)(?![A-Za-z])",
    re.DOTALL,
)
_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
# `2^3`, `x^{1/2}`: a power and its exponent
_POWER = re.compile(rf"[\d)}}]\s*\^\s*({_GROUP}|\S)")
# `{\frac{1}{2}}`, `{-x}`: an exponent that is cheap to work on
_EXPONENT = re.compile(r"(?:\\frac|\\pi|\\sqrt|[-+/\s}a-z]|\{(?=.)|(?<!\d)\d{1,3}(?!\d))*")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)")
_TWO_NUMBERS = re.compile(r"\d\s+\d")
_LATEX = [LatexExtractionConfig()]


class _TooMuchWork(BaseException):
    """The limit on calls is reached; not an Exception, because math-verify catches all of those."""


def equal(gold: str, answer: str) -> bool:
    """Return whether two formulas in the normalized spelling are equal.

    A formula that cannot be parsed equals none. An equation equals no expression, although
    math-verify takes `x^2 = 8` for 8.
    """
    both = gold, answer
    if any(_is_costly(text) or PROSE.search(text) or _TWO_NUMBERS.search(text) for text in both):
        return False
    brackets = [text[0] if text[0] in "([" else "" for text in both]
    if "," in gold + answer and brackets[0] != brackets[1]:
        return False

    equations = [text.count("=") for text in both]
    if bool(equations[0]) != bool(equations[1]):
        return False
    if equations == [1, 1] and not any("," in text or _RELATION.search(text) for text in both):
        return _bounded(lambda: _equal_equations(gold, answer))
    return _bounded(lambda: bool(verify(*map(_parsed, both), timeout_seconds=None)))


def _is_costly(text: str) -> bool:
    if len(text) > LONGEST or _COSTLY.search(text):
        return True
    exponents = _POWER.findall(text)
    if not all(_EXPONENT.fullmatch(exponent) for exponent in exponents):
        return True
    numbers = (int(number) for number in re.findall(r"\d+", " ".join(exponents)))
    return math.prod(max(1, number) for number in numbers) > _LARGEST_POWER


def _bounded(compare: Callable[[], bool]) -> bool:
    """Return the result of a comparison, or False if it takes more than `MOST_CALLS`."""
    calls = count()

    def stop(frame: FrameType, event: str, argument: object) -> None:
        # In a generator that is being discarded, Python would print the exception and go on.
        if (
            next(calls) >= MOST_CALLS
            and event == "call"
            and not frame.f_code.co_flags & inspect.CO_GENERATOR
        ):
            raise _TooMuchWork

    previous = sys.getprofile()
    sys.setprofile(stop)
    try:
        return compare()
    except _TooMuchWork:
        return False
    finally:
        sys.setprofile(previous)


def _parsed(text: str) -> Any:
    return parse(f"${_exact(text)}$", _LATEX, fallback_mode="no_fallback", parsing_timeout=None)


def _equal_equations(gold: str, answer: str) -> bool:
    """Return whether two equations are the same up to a numerical factor.

    math-verify would compare the solutions for one unknown of each.
    """
    sides = [text.split("=") for text in (gold, answer)]
    parsed = [_parsed(f"({left})-({right})") for left, right in sides]
    if not all(parsed):
        return False
    try:
        first, second = (expressions[0].doit() for expressions in parsed)
        symbols = sorted(first.free_symbols | second.free_symbols, key=str)
        # Two points that the equation of no exercise passes through.
        points = [
            {symbol: start + 7919 * step**2 for step, symbol in enumerate(symbols)}
            for start in (10007, 31337)
        ]
        factor, other = ((first / second).subs(point) for point in points)
        if not factor.is_finite or factor == 0 or abs((factor - other).evalf()) > 1e-9:
            return False
        difference = first - factor * second
        return bool(difference.expand() == 0 or difference.simplify() == 0)
    except Exception:  # noqa: BLE001  SymPy's errors have no base class in common.
        return False


def _exact(text: str) -> str:
    r"""Write decimals as fractions: `0.5` as `(\frac{5}{10})`."""
    return _DECIMAL.sub(
        lambda number: rf"(\frac{{{int(number[1] + number[2])}}}{{{10 ** len(number[2])}}})", text
    )
