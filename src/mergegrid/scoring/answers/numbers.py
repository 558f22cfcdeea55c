r"""Answers that are one number, as in GSM8K.

Robust rule. Of the parts of a text where an answer may stand (`judgement`) the first that holds
a number counts; of a part after a cue only the first sentence of its first line. In it

* the first number is the answer, with its sign, thousands separators, decimals, fraction
  (`5/2`, `\frac{5}{2}`, `2 1/2`, `2½`) and `hundred` to `billion` or an attached `k`; currency,
  percent signs, units and the text that follows are left out;
* of a calculation (`2 x 3 = 6`, `5 apples + 1 apple = 6`) the number after the last `=` is it;
* what is not one number is no answer: an unfinished calculation (`2 x 3`), a range (`5-10`), a
  list (`5 or 6`, `10 apples and 3 pears`), a time (`3:45`), digits in a name (`B12`), commas that
  separate no thousands (`1,23`) or more than 60 digits.

A text without any cue is read only if it is nothing but one number: the last number of a text
would often be taken for its answer by chance. Numbers are compared as fractions, never rounded.

The paper's rule wants the literal cue "The answer is: ", takes the first number after it
(`1,234,567` reads as 1,234) and rounds it to an integer, half to even.
"""

import re
import unicodedata
from fractions import Fraction

from mergegrid.errors import DataError
from mergegrid.scoring.answers.judgement import Judgement, paper_segment, segments

_MULTIPLES = {"k": 10**3, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_DIGITS = r"(?:(?:[1-9]\d{0,2}(?:[, ]\d{3}){1,19}(?!\d)|\d{1,60})(?:\.\d{1,60})?|\.\d{1,60})"
_FRACTION = r"(?:[ ](?:and[ ])?\d{1,20}/\d{1,20}|[ ]?/[ ]?[-+]?" + _DIGITS + ")"
_NUMBER = (
    r"(?<![\w.,:/])(?P<sign>[-+]?)[$€£]?(?<![\w.,:/])[ ]?(?P<minus>-?)"
    rf"(?P<whole>{_DIGITS})(?P<part>{_FRACTION})?(?:[eE](?P<exponent>[-+]?\d{{1,2}}))?"
    r"(?!\d|[.,:/]\d)(?P<multiple>[kK]\b|[ ]?(?:hundred|thousand|million|billion)\b)?"
)
_FIRST = re.compile(_NUMBER)
_ANONYMOUS = re.sub(r"\?P<\w+>", "?:", _NUMBER)
_UNIT = r"(?:\s+(?!(?:x|of|plus|minus|times|divided|multiplied|or|and|to)\b)[A-Za-z]+)?"
_OPERAND = rf"\(*{_ANONYMOUS}(?:\s*%)?\)*{_UNIT}"
_OPERATOR = r"\s*(?:[-+*/x×÷·^]|of|plus|minus|times|divided by|multiplied by)\s*"
_LINK = r"(?:\s*[,;]|\s+(?:or|and|to))\s+(?:\w{1,9}\s*=\s*)?"
# What follows an operator may touch it, so it has none of the bounds that begin an operand.
_NEXT = rf"\(*(?:[-+]?[$€£]?{_DIGITS}(?:\s*/\s*\d{{1,20}})?)(?:\s*%)?\)*{_UNIT}"
_CALCULATION = re.compile(rf"{_OPERAND}(?:{_OPERATOR}{_NEXT})+\s*(?P<equals>=)?")
_LIST = re.compile(rf"{_OPERAND}{_LINK}{_NEXT}")

_ARGUMENT = r"\s*(?:\{\s*([^{}]*?)\s*\}|(\d))"
_LATEX_FRACTION = re.compile(rf"(\d?)\s*\\[dtc]?frac{_ARGUMENT}{_ARGUMENT}")
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\u2212", "-"),
        (r"\\!\s*", ""),
        (r"\{,\}", ","),
        (r"\\[,;: ]|~|[\u00a0\u2009\u202f]", " "),
        (r"\\(?:left|right)(?![A-Za-z])|\*\*|__|`", ""),
        (r"\\(?:times|cdot)(?![A-Za-z])", "×"),
        (r"\\div(?![A-Za-z])", "÷"),
        (r"\\([$%])", r"\1"),
        (r"\\[\[\]()]", " "),
        (r"(?<=\d) and a half\b", " 1/2"),
    )
]
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)(?![A-Za-z])|[{}]")
_VULGAR = re.compile("[¼-¾⅐-⅞]")

_PAPER_NUMBER = re.compile(r"[-+]?\d*[.,/]?\d+")


def _fraction(match: re.Match[str]) -> str:
    before, top, digit, bottom, last = match.groups()
    return (
        f"{before} {top or digit}/{bottom or last}"
        if before
        else f"{top or digit}/{bottom or last}"
    )


def _plain(text: str) -> str:
    """Text without the marks of LaTeX and Markdown that may stand in a number."""
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _VULGAR.sub(
        lambda sign: " " + unicodedata.normalize("NFKC", sign[0]).replace("\u2044", "/"), text
    )
    text = _LATEX_FRACTION.sub(_fraction, text)
    return _WRAPPER.sub(" ", text).strip()


def _value(match: re.Match[str]) -> Fraction | None:
    """The number of a match of `_NUMBER`; None for a division by zero."""
    whole = Fraction(re.sub("[, ]", "", match["whole"]))
    part = re.sub("and|,", "", match["part"] or "")
    if part:
        top, bottom = part.replace(" ", "").split("/")
        divisor = Fraction(bottom)
        if divisor == 0:
            return None
        whole = whole + Fraction(top) / divisor if top else whole / divisor
    value = whole * Fraction(10) ** int(match["exponent"] or 0)
    value *= _MULTIPLES.get((match["multiple"] or "").strip().lower(), 1)
    return -value if (match["sign"] == "-") != (match["minus"] == "-") else value


def exact(text: str) -> Fraction | None:
    r"""The number that a whole text is, as in `-1,234.5`, `\frac{1}{2}` or `$5`; else None."""
    match = _FIRST.fullmatch(_plain(text).removesuffix("%").rstrip())
    return _value(match) if match and not match["multiple"] else None


def _read(text: str, ends: bool) -> tuple[str, Fraction] | None:
    """The answer in a segment, as it is written and as a number."""
    text = _plain(text)
    if not ends:
        line = next((line for line in text.splitlines() if line.strip(" $*:")), "")
        text = re.split(r"[.!?](?=\s|$)", line, maxsplit=1)[0]
    while True:
        match, digit = _FIRST.search(text), re.search(r"\d", text)
        if match is None or digit is None or digit.start() < match.start():
            return None
        opening = len(text[: match.start()]) - len(text[: match.start()].rstrip("("))
        start = match.start() - opening
        calculation = _CALCULATION.match(text, start)
        if calculation is None:
            break
        if not calculation["equals"]:
            return None
        text = text[calculation.end() :]
    value = _value(match)
    if value is None or _LIST.match(text, start):
        return None
    return match[0].strip(), value


def _answer(output: str) -> tuple[str, Fraction] | None:
    cued = False
    for segment, ends in segments(output):
        cued = True
        found = _read(segment, ends)
        if found:
            return found
    text = _plain(output).rstrip(". $")
    value = None if cued else exact(text)
    return None if value is None else (text, value)


def _paper_number(output: str) -> int | None:
    """The first number after the paper's cue, rounded half to even."""
    segment = paper_segment(output)
    match = _PAPER_NUMBER.search(segment or "")
    if match is None:
        return None
    top, slash, bottom = match[0].replace(",", "").partition("/")
    try:
        value = float(top)
        # The paper's rule reads a division by zero as the number above the line.
        divisor = float(bottom) if slash else 1.0
        return round(value / divisor if divisor else value)
    except (ValueError, OverflowError):
        return None


def judge(reference: str, output: str) -> Judgement:
    """Whether a model's text ends in the number of a GSM8K answer (what follows "####").

    Args:
        reference: a GSM8K answer with its solution, or the number alone.
        output: what the model wrote.

    Raises:
        DataError: the reference holds no number.
    """
    written = reference.rpartition("####")[2].strip()
    expected = exact(written)
    if expected is None:
        raise DataError(
            f"the reference answer ends in {written[-80:]!r}, which is not a number: "
            "give a GSM8K answer with its number after '####', or the number alone"
        )
    found, paper = _answer(output), _paper_number(output)
    return Judgement(
        extracted=found[0] if found else None,
        correct=found is not None and found[1] == expected,
        paper_extracted=None if paper is None else str(paper),
        paper_correct=paper is not None and float(paper) == float(expected),
    )
