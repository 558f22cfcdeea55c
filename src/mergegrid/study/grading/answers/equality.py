r"""Whether two formulas are equal, by math-verify and SymPy, in bounded work.

What is not covered: formulas that are not brought to the same spelling are taken for different
where one is longer than 200 characters or holds what one call could work on without end (powers
of powers, powers beyond 1,000, large factorials or binomials, sums, products, limits, integrals),
and given up after 4 million calls of Python functions, some seconds. Calls are counted because
the verdict must not hang on how busy the machine is, and because math-verify's own time limit
works by signals, which only a main thread receives.
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
from math_verify.errors import TimeoutException

LONGEST = 200
"""Characters of the longest answer that math-verify gets."""
MOST_CALLS = 4_000_000
"""Calls and returns of functions after which an answer is taken for wrong."""
_LARGEST_POWER = 1000

# All that it warns of is that no time limit is set.
logging.getLogger("math_verify").setLevel(logging.ERROR)

PROSE = re.compile(r"(?<![\\A-Za-z])(?<!\\begin\{)(?<!\\end\{)[A-Za-z]{3,}")
"""Words, which no formula holds."""
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|in|lt|gt|equiv|sim|mid)(?![a-z])")

_COSTLY = re.compile(
    r"\^\s*(?:\{[^{}]*\^|\w\s*\^)"  # powers of powers
    r"|\^.*\d{5}|\d{5}.*\^"
    r"|\d{3,}\s*!|!\s*!|[^\d\s]\s*!"
    r"|binom.*\d{4}"
    r"|\\(?:sum|prod|int|lim|iint|oint)(?![A-Za-z])",
    re.DOTALL,
)
_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_POWER = re.compile(rf"[\d)}}]\s*\^\s*({_GROUP}|\S)")
_EXPONENT = re.compile(r"(?:\\frac|\\pi|\\sqrt|[-+/\s}a-z]|\{(?=.)|(?<!\d)\d{1,3}(?!\d))*")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)")
_TWO_NUMBERS = re.compile(r"\d\s+\d")
_LATEX = [LatexExtractionConfig()]


def _costly(text: str) -> bool:
    if len(text) > LONGEST or _COSTLY.search(text):
        return True
    exponents = _POWER.findall(text)
    if not all(_EXPONENT.fullmatch(exponent) for exponent in exponents):
        return True
    numbers = (int(number) for number in re.findall(r"\d+", " ".join(exponents)))
    return math.prod(max(1, number) for number in numbers) > _LARGEST_POWER


def _bounded(compare: Callable[[], bool]) -> bool:
    """Result of a comparison, False if it takes more than `MOST_CALLS`."""
    calls = count()

    def stop(frame: FrameType, event: str, argument: object) -> None:
        # Raised where Python would only print it, as in a generator that is thrown away, the
        # exception would be lost, and the count with it.
        if (
            next(calls) >= MOST_CALLS
            and event == "call"
            and not frame.f_code.co_flags & inspect.CO_GENERATOR
        ):
            # The one exception that math-verify, which catches all others, takes for the end.
            raise TimeoutException

    before = sys.getprofile()
    sys.setprofile(stop)
    try:
        return compare()
    except TimeoutException:
        return False
    finally:
        sys.setprofile(before)


def same(gold: str, answer: str) -> bool:
    """Whether two formulas in the one spelling are equal; what cannot be parsed is not.

    An equation equals no expression, whereas math-verify takes `x^2 = 8` for 8.
    """
    both = gold, answer
    if any(_costly(text) or PROSE.search(text) or _TWO_NUMBERS.search(text) for text in both):
        return False
    brackets = [text[0] if text[0] in "([" else "" for text in both]
    if "," in gold + answer and brackets[0] != brackets[1]:
        return False

    equations = [text.count("=") for text in both]
    if bool(equations[0]) != bool(equations[1]):
        return False
    if equations == [1, 1] and not any("," in text or _RELATION.search(text) for text in both):
        return _bounded(lambda: _same_equation(gold, answer))
    return _bounded(lambda: bool(verify(*map(_parsed, both), timeout_seconds=None)))


def _parsed(text: str) -> Any:
    return parse(f"${_exact(text)}$", _LATEX, fallback_mode="no_fallback", parsing_timeout=None)


def _same_equation(gold: str, answer: str) -> bool:
    """Whether two equations are one up to a factor that is a number.

    Not left to math-verify, which compares what one unknown of each comes to.
    """
    sides = [text.split("=") for text in (gold, answer)]
    parsed = [_parsed(f"({left})-({right})") for left, right in sides]
    if not all(parsed):
        return False
    try:
        first, second = (each[0].doit() for each in parsed)
        symbols = sorted(first.free_symbols | second.free_symbols, key=str)
        # Two points that no equation of an exercise goes through.
        points = [
            {each: start + 7919 * step**2 for step, each in enumerate(symbols)}
            for start in (10007, 31337)
        ]
        factor, other = ((first / second).subs(point) for point in points)
        if not factor.is_finite or factor == 0 or abs((factor - other).evalf()) > 1e-9:
            return False
        difference = first - factor * second
        return bool(difference.expand() == 0 or difference.simplify() == 0)
    except Exception:  # noqa: BLE001 SymPy's errors have no class in common.
        return False


def _exact(text: str) -> str:
    """Text with its decimals as fractions."""
    return _DECIMAL.sub(
        lambda number: rf"(\frac{{{int(number[1] + number[2])}}}{{{10 ** len(number[2])}}})", text
    )
