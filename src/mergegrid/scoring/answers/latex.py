r"""Answers in LaTeX, as in MATH.

Robust rule. The answer is the first part of a text where one may stand (`judgement`); of a part
after a cue its first sentence, or the one formula in dollars in it if no digit stands beside it.
Gold and answer are brought into one spelling (`\dfrac12` becomes `\frac{1}{2}`; sizes, spaces,
degree and currency signs and units go) and compared:

1. One spelling is right. Words, and numbers with the subscript of a base, are compared in no
   other way; in words, case makes no difference.
2. Two numbers are compared as fractions, never rounded. A percentage equals its number or, where
   only one side has the sign, a hundredth of it.
3. Else math-verify says whether both are one expression, relation, set, interval or matrix. It
   gets decimals as fractions. `(1, 2)`, `[1, 2]` and `1, 2` differ.

What is not covered: step 3 is left out, so that an equal value in another form is wrong, where
one side is longer than 200 characters or holds what one call could work on without end (powers
of powers, powers beyond 1,000, large factorials or binomials, sums, products, limits, integrals),
and given up after 4 million calls of Python functions, some seconds. Calls are counted because
the verdict must not hang on how busy the machine is, and because math-verify's own time limit
works by signals, which only a main thread receives. Units are not compared (`5 cm` equals `5 m`),
nor is the form: `(x+1)^2` equals `x^2+2x+1`.

The paper's rule takes the text after the last literal cue "The answer is: " up to a full stop
that ends a line, respells it the way MATH was first scored, and compares strings.
"""

import inspect
import logging
import math
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import count
from types import FrameType

from math_verify import LatexExtractionConfig, parse, verify
from math_verify.errors import TimeoutException

from mergegrid.scoring.answers.judgement import Judgement, boxed, paper_segment, segments
from mergegrid.scoring.answers.numbers import exact

__all__ = ["boxed", "judge"]

LONGEST = 200
"""Characters of the longest answer that math-verify gets."""
MOST_CALLS = 4_000_000
"""Calls and returns of functions after which an answer is taken for wrong."""
_LARGEST_POWER = 1000

# All that it warns of is that no time limit is set.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_Rewrites = list[tuple[re.Pattern[str], str]]


def _rewrites(*pairs: tuple[str, str]) -> _Rewrites:
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


def _rewrite(text: str, rewrites: _Rewrites) -> str:
    for pattern, replacement in rewrites:
        text = pattern.sub(replacement, text)
    return text


_FORMULA = re.compile(r"\$\s*([^$]*?)\s*\$")
_DOLLARS = _rewrites(
    (r"\\\$", ""),
    (r"(?<!\\)\\[\[\]()]|\$\$", "$"),
    (r"\*\*", ""),
)


def _segment(output: str) -> str | None:
    """The answer as it is written."""
    for text, ends in segments(output):
        text = _rewrite(text, _DOLLARS)
        if not ends:
            text = _FORMULA.sub(lambda formula: f"${' '.join(formula[1].split())}$", text)
            text = next((line for line in text.splitlines() if line.strip(" :")), "")
            text = re.split(r"\.(?=\s|$)", text, maxsplit=1)[0]
        formulas = _FORMULA.findall(text)
        if len(formulas) == 1 and not re.search(r"\d", _FORMULA.sub("", text)):
            text = formulas[0]
        text = " ".join(text.replace("$", " ").split()).strip(" :")
        if text:
            return text
    return None


_WORDS = r"\\(?:text|textbf|textit|textrm|mathrm|mbox)(?![A-Za-z])\s*"
# Two letters may be two variables, unless they are a unit that everybody writes so.
_UNIT = r"(?:[A-Za-z]{3,}|[cmk]m|[mk]g|ml|ft|in|mi|lb|hr|oz)\.?(?:\s*\^\s*\{?[23]\}?)?"
_SPELLINGS = _rewrites(
    ("\u2212", "-"),
    (r"\\!\s*", ""),
    (r"\{,\}", ","),
    (r"√\s*(\d+|\w)", r"\\sqrt{\1}"),
    (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    ("π|(?<![\\\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    ("∞", r"\\infty "),
    ("∪", r"\\cup "),
    ("≤", r"\\le "),
    ("≥", r"\\ge "),
    (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![A-Za-z])", ""),
    (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~|[\u00a0\u2009\u202f]", " "),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(le|ge|ne)q(?![A-Za-z])", r"\\\1"),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|°|\\degree(?![A-Za-z])", ""),
    (r"\\?\$|\\?%", ""),
    # Words in the middle or alone are kept, those after a value are its unit.
    (rf"(?<=[^\s,])\s*{_WORDS}\{{(?!\s*(?:or|and)\b)[^{{}}]*\}}(?:\s*\^\s*\{{?\d\}}?)?\s*$", ""),
    (rf"{_WORDS}\{{([^{{}}]*)\}}", r" \1 "),
    (rf"(?<=[\d}})])\s+(?!and\b)(?:{_UNIT})(?:\s+(?:{_UNIT}))*\s*$", ""),
    (r",?\s+(?:and|or)\s+", ", "),
    (r"^(?:[Aa]n?|[Tt]he)\s+(?=[A-Za-z]{3})", ""),
    (r"^[\s,;:=]+|[\s,;:.=]+$", ""),
)
_BRACES = _rewrites(
    (r"\\frac\s*([^{\s\\])\s*([^{\s\\])", r"\\frac{\1}{\2}"),
    (r"\\frac\s*([^{\s\\])\s*\{", r"\\frac{\1}{"),
    (r"(\\frac\s*\{[^{}]*\})\s*([^{\s\\])", r"\1{\2}"),
    (r"\\sqrt\s*([^{\[\s\\])", r"\\sqrt{\1}"),
    (r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2"),
    # A space between two digits or letters may mean something.
    (r"(?<![\w\\])\s+|\s+(?!\w)|(?<=\d)\s+(?=[A-Za-z])|(?<=[A-Za-z])\s+(?=\d)", ""),
)
_NAME = re.compile(r"(?:[A-Za-z]|[A-Za-z]\([A-Za-z]\)|\\[a-z]+)\s*(?:=|\\in(?![a-z]))")
_PERCENT = re.compile(r"%|\bper\s?cent\b")
_PROSE = re.compile(r"(?<![\\A-Za-z])(?<!\\begin\{)(?<!\\end\{)[A-Za-z]{3,}")
_BASE = re.compile(r"\d\s*_")
_LETTER = re.compile(r"\(([A-Za-z])\)")


def _spelled(text: str) -> str:
    """Text in the one spelling, still with spaces."""
    return _rewrite(" ".join(text.split()), _SPELLINGS)


def _unnamed(text: str, other: str) -> str:
    """Text without a name, as in `x = 5`, that the other text does not give."""
    name = _NAME.match(text)
    return text[name.end() :].strip() if name and not _NAME.match(other) else text


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


def _same_expression(gold: str, answer: str) -> bool:
    """Whether math-verify takes two formulas for one; what it cannot parse is not."""
    both = gold, answer
    if any(_costly(text) or _PROSE.search(text) or _TWO_NUMBERS.search(text) for text in both):
        return False
    brackets = [text[0] if text[0] in "([" else "" for text in both]
    if "," in gold + answer and brackets[0] != brackets[1]:
        return False

    def compare() -> bool:
        parsed = [
            parse(f"${_exact(text)}$", _LATEX, fallback_mode="no_fallback", parsing_timeout=None)
            for text in both
        ]
        return bool(verify(*parsed, timeout_seconds=None))

    return _bounded(compare)


def _exact(text: str) -> str:
    """Text with its decimals as fractions."""
    return _DECIMAL.sub(
        lambda number: rf"(\frac{{{int(number[1] + number[2])}}}{{{10 ** len(number[2])}}})", text
    )


def _same(gold: str, answer: str) -> bool:
    percent = [bool(_PERCENT.search(text)) for text in (gold, answer)]
    words = re.search(_WORDS + r"\{\s*\(?[A-Za-z]", gold) is not None
    gold, answer = _spelled(gold), _spelled(answer)
    gold, answer = _unnamed(gold, answer), _unnamed(answer, gold)
    if not gold or not answer:
        return False
    short = [_LETTER.sub(r"\1", _rewrite(text, _BRACES)) for text in (gold, answer)]
    if short[0] == short[1]:
        return True
    if _PROSE.fullmatch(short[0]) or (words and not re.search(r"[\d\\]", short[0])):
        return short[0].casefold() == short[1].casefold()
    numbers = [exact(text) for text in (gold, answer)]
    if numbers[0] is not None and numbers[1] is not None:
        return _same_number(numbers[0], numbers[1], percent)
    if _BASE.search(gold) or _BASE.search(answer):
        return False
    return _same_expression(*(_rewrite(text, _BRACES) for text in (gold, answer)))


def _same_number(gold: Fraction, answer: Fraction, percent: list[bool]) -> bool:
    if gold == answer:
        return True
    return percent[0] != percent[1] and (gold / 100 if percent[0] else gold) == (
        answer / 100 if percent[1] else answer
    )


_PAPER_SPELLINGS = _rewrites(
    (r"\n|\\!", ""),
    (r"\\\\", r"\\"),
    (r"\\[dt]frac", r"\\frac"),
    (r"\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$", ""),
)
_PAPER_BRACES = _rewrites(
    (r"\\%", ""),
    (r"(^|[ {])\.", r"\g<1>0."),
    (r"^([^=]{0,2})=([^=]*)$", r"\2"),
    (r"\\sqrt(?!\{)(.)", r"\\sqrt{\1}"),
    (" ", ""),
    (r"\\frac(?!\{)(.)(?!\{)(.)", r"\\frac{\1}{\2}"),
    (r"\\frac(?!\{)(.)\{", r"\\frac{\1}{"),
    (r"^0\.5$", r"\\frac{1}{2}"),
)


def _paper_spelling(text: str) -> str | None:
    r"""The spelling of the paper's rule; None for a text that it gives up on.

    It gives up on a text with two `\text{ ` and on a quotient of other things than integers.
    """
    text = _rewrite(text, _PAPER_SPELLINGS)
    if text.count(r"\text{ ") > 1:
        return None
    text = _rewrite(text.partition(r"\text{ ")[0], _PAPER_BRACES)
    top, slash, bottom = text.partition("/")
    if not slash or "/" in bottom:
        return text
    try:
        quotient = rf"\frac{{{int(top)}}}{{{int(bottom)}}}"
    except ValueError:
        return None
    return quotient if text == f"{int(top)}/{int(bottom)}" else text


def _paper_answer(output: str) -> str | None:
    segment = paper_segment(output)
    if segment is None:
        return None
    return segment.partition(".\n")[0].strip().removesuffix(".").strip() or None


def _paper_same(gold: str, answer: str) -> bool:
    spelled = _paper_spelling(gold), _paper_spelling(answer)
    return gold == answer if None in spelled else spelled[0] == spelled[1]


def judge(reference: str, output: str) -> Judgement:
    r"""Whether a model's text ends in the answer of a MATH problem.

    Args:
        reference: the gold answer, without its `\boxed{}`.
        output: what the model wrote.
    """
    answer, paper = _segment(output), _paper_answer(output)
    return Judgement(
        extracted=answer,
        correct=answer is not None and _same(_rewrite(reference, _DOLLARS), answer),
        paper_extracted=paper,
        paper_correct=paper is not None and _paper_same(reference, paper),
    )
