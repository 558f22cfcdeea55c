r"""Read the one number that a sentence gives as its answer, or nothing if that is uncertain.

    about $1,234.50 a day                        1234.5
    9 eggs * $2 = $18                            18
    9 times 2 is 18, so she makes $18            18
    48 / 2 = 24, and 48 + 24 = 72                72, because the second uses the first
    3 or 4; 9 eggs for 18 dollars; at least 5    nothing

A sentence is read as clauses (between commas, semicolons, "so", "which"), which must agree:

* A clause without `=` must hold exactly one number, with nothing around it but words, units,
  currency and percent signs: `about $1,234.50 a day`, `60 km/h`, `6 p.m.`, `negative 5`.
* The answer of a calculation (`9 eggs * $2 = $18`, `9 times 2 is 18`) is its result, after the last
  `=`, or before it (`18 = 9 * 2`) if the arithmetic confirms that. Before `=` there may be a
  calculation or a bare name (`x`, `f(3)`, `total`), but not a formula (`2x = 8`).
* Of several calculations the last counts, if it uses the results of the others.

All other sentences with several numbers are left unread, and so are ranges, lists, times (`3:45`),
bullets (`- 5`), comparisons (`at least 5`), denials, conditions, and words that change a number
(`half of 36`, `3 dozen`).
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction

from mergegrid.study.grading.answers.number_forms import CURRENCY, NUMBER, plain, value
from mergegrid.study.grading.answers.words import (
    changes_a_number,
    has_a_variable,
    is_name,
    is_uncertain,
    single_letters,
    unit_may_follow,
)

Number = tuple[str, Fraction]
"""A number as written, and its value: `("1,234.5", Fraction(2469, 2))`."""

LONGEST = 1000
"""Characters of the longest sentence that is read."""

_ABBREVIATIONS = (
    (re.compile(r"\b(approx|Mr|Mrs|Ms|Dr|St|vs|ca)\."), r"\1"),  # approx. -> approx
    (re.compile(r"\b([aeip])\.\s?([egm])\b\.?"), r"\1\2"),  # p.m. -> pm, i.e. -> ie
    (re.compile(r"\bo['’]\s?clock\b"), ""),  # 3 o'clock -> 3
    (re.compile(r"(?<![\d:])(\d{1,2}):00(?![\d:])"), r"\1"),  # 3:00 -> 3
)
# The end of a sentence. The next one does not begin with a small letter or an operator, as in
# "5 ft. by 3 ft." and "5 ft. + 3 ft."
_SENTENCE_END = re.compile(
    r"(?<!\.)[.!?](?=\s+[^\sa-z+*/×÷·=<>\u2010-\u2015\u2212-]|\s*$)|[。！？]"
)
# "- 5", "2. Add", but not "5. So ..."
_LIST_MARK = re.compile(
    r"(?:[-\u2013\u2014]|\d+[.)](?!\s+(?:I\s+hope|So|Thus|Hence|Therefore)\b))\s"
)
# "=", "=>", "→", "\approx"
_EQUALS = re.compile(
    r"\s*(?:={1,2}>?|≈|≃|≅|→|⇒|⟹|->|\\(?:approx|to|[Rr]ightarrow|implies)(?![A-Za-z]))\s*"
)
# "9 times 2" ... "is 18", "makes 18", "comes out to 18"
_VERB = re.compile(
    r"\s+(?:is(?:\s+equal\s+to)?|are|was|equals?|makes?|gives?|yields?|totals?|leaves?|becomes?"
    r"|comes?\s+(?:out\s+)?to|results?\s+in|amounts?\s+to|for\s+a\s+total\s+of|costs?|earns?)\s+"
)
# "18 eggs" ... "because there are 2 boxes of 9"
_REASON = re.compile(
    r",?\s+(?:because|since|given\s+that|due\s+to|rather\s+than|instead\s+of)\b|,\s+(?:as|not)\b",
    re.IGNORECASE,
)
# "So, 18 eggs"
_OPENING = re.compile(r"(?:so|thus|hence|therefore|then)\b[,:]?\s*", re.IGNORECASE)
# "18 eggs. ...", "$18. ...", "x = 18. ..."
_VALUE_FIRST = re.compile(rf"\W*(?:[\d{CURRENCY}]|negative\b|minus\b|[A-Za-z]\s*=)", re.IGNORECASE)
# "18 eggs (2 boxes of 9)"
_ASIDE = re.compile(r"(?<=[\w%])\s+[(\[]([^()\[\]]*)[)\]](?!\s*[-+*/x×÷·^=]\s*[\d($])")
# Between clauses: "..., ...", "...; ...", "... so ...", "... which ..."
_CLAUSE = re.compile(
    r"[,;](?:\s+|(?=\D))|(?<=\w):\s+|,?\s+(?:so|then|thus|hence|therefore|which|that|ie)\s+"
)
_AND = re.compile(r"\s+and\s+")
# "9 * 2", "9 - 2", "9 plus 2", "10% of 18"
_OPERATOR = re.compile(
    rf"[+*×÷·]|[\d)]\s*[-x/]\s*[({CURRENCY}\d]|[^\W\d_]\.?\s+[-x/]\s+[({CURRENCY}\d]|%\s+of\b"
    r"|\b(?:plus|minus|times|multiplied\s+by|divided\s+by)\b"
)
# Between the operands of a calculation: "9 * 2", "half of the total", but not the hyphen or slash
# of "two-day" and "km/h".
_BETWEEN = re.compile(
    rf"[+*×÷·^|]|(?<!\w)-|-(?!\w)|/(?=\s*[\d(\\{CURRENCY}])|(?<=[\d)]\s)/(?=\s)"
    r"|\\[A-Za-z]+|(?<=\d)%?\s+(?:of|the|his|her|its|their|my|our)\b|\bper\s?cent\s+of\b"
    r"|\b(?:plus|minus|multiplied\s+by|divided\s+by)\b|(?<=\d)\s+times\s+(?:(?:the|a)\b|(?=\d))"
)
# "\theta", "x^2": unlike "\pi" and "\sqrt"
_UNKNOWN = re.compile(
    r"\\(?!(?:sqrt|pi|binom|log|ln|sin|cos|tan|cot|sec|csc|cdot|pm)(?![A-Za-z]))[A-Za-z]"
    r"|[^\W\d_]\s*\^|[\u0370-\u03bf\u03c1-\u03ff]"
)
# "negative 5", "minus $5"
_MINUS = re.compile(
    rf"(?:^|(?<=[\s(]))(?:negative|minus)\s+(?=[{CURRENCY}]?\s?[\d.])", re.IGNORECASE
)
# "over 5", "times 5", "one 5", "3 - 5": words before a number that change it
_BEFORE = re.compile(
    r"(?:\b(?:over|under|above|below|beyond|times|of\s+the|one)|[-\u2013\u2014])\s*$", re.IGNORECASE
)
# "about", "a day", "well-known", "and/or": text around a number that does not change it
_AROUND = re.compile(
    r"(?:[^\W\d_]|[\s'’\"“”‘.,;:()¢°%\[\]]"
    r"|(?<=\w)[-\u2013](?=[^\W\d_])|(?<=\w)\s?/\s?(?=[^\W\d_])|\s[\u2013\u2014-]\s(?=[^\W\d_]))*"
)
# "%", " €" and letters that touch a number, "cm"
_AFTER = re.compile(rf"(?:\s?[%‰¢°]|\s?[{CURRENCY}])?([^\W\d_]*)")


def read(text: str, *, is_whole: bool = True) -> Number | None:
    """Return the number that a text gives as its answer, or None if that is uncertain.

    Args:
        text: The segment that may hold the answer.
        is_whole: The answer is the whole text; otherwise only its first sentence counts.
    """
    if is_whole and len(text) > LONGEST:
        return None
    text = plain(text[: 2 * LONGEST])
    for pattern, replacement in _ABBREVIATIONS:
        text = pattern.sub(replacement, text)
    if is_whole:
        text = re.sub(r"^([-+])\s+", r"\1", text)
    else:
        line = next((line for line in text.splitlines() if line.strip(" $*:=")), "").strip(" :")
        if _LIST_MARK.match(line):
            return None
        end = _SENTENCE_END.search(line)
        if end and end[0] in "?？":
            return None
        text = line[: end.start()] if end else line
        rest = line[end.end() :] if end else ""
        goes_on = "=" in rest if "=" in text else not _VALUE_FIRST.match(text)
        if goes_on and re.search(r"\d", rest):
            # The start of a solution: "There are 60 minutes in an hour. 90 / 60 = ..."
            return None
    text = " ".join(text.split()).lstrip(" :=•").rstrip(" :=.$")
    return _sentence(text) if len(text) <= LONGEST else None


def _sentence(text: str) -> Number | None:
    opening = _OPENING.match(text)
    text = text[opening.end() :] if opening else text
    text, *reasons = _REASON.split(_EQUALS.sub(" = ", text))
    if is_uncertain(text):
        return None
    if any(re.search(r",.*\d", reason) and "=" not in reason for reason in reasons):
        return None
    asides = _ASIDE.findall(text)
    if any(re.search(r"\d", aside) and not re.search(r"[^\W\d_]|=", aside) for aside in asides):
        # "2 (3 + 4)" may be a product.
        return None
    if any(changes_a_number(aside) and not re.search(r"\d", aside) for aside in asides):
        return None
    # Reasons with a result must agree with the answer.
    clauses = _clauses(_ASIDE.sub("", text))
    clauses += [clause for part in (*reasons, *asides) if "=" in part for clause in _clauses(part)]
    clauses = [clause for clause in clauses if re.search(r"\d", clause)]
    results = [result for result in map(_clause, clauses) if result is not None]
    if not results or len(results) < len(clauses):
        return None
    last = results[-1]
    used = [set(_numbers(clause.rpartition("=")[0])) for clause in clauses]
    for index, result in enumerate(results[:-1]):
        if result[1] != last[1] and not any(result[1] in later for later in used[index + 1 :]):
            return None
    return last


def _clauses(text: str) -> list[str]:
    clauses = []
    for clause in _CLAUSE.split(text):
        parts = _AND.split(clause)
        clauses += parts if len(parts) > 1 and all("=" in part for part in parts) else [clause]
    return clauses


def _clause(text: str) -> Number | None:
    """Return the number of a clause."""
    parts = [part.strip() for part in text.strip(" =").split("=")]
    if len(parts) > 1 and any(is_name(part) and changes_a_number(part) for part in parts):
        return None
    while len(parts) > 1 and is_name(parts[0].strip("$ ")):
        del parts[0]
    while len(parts) > 1 and is_name(parts[-1].strip("$ ")):
        del parts[-1]
    if len(parts) == 1:
        return _spoken(parts[0]) or _quantity(parts[0])
    *left, last = parts
    if any(_is_formula(part) for part in left) or re.search(r"[^\W\d_]\s*\+", last):
        return None
    letters = {letter for part in left for letter in single_letters(part)}
    if letters - single_letters(last) or any(_AND.search(part) for part in left[1:]):
        return None
    result = _quantity(last)
    if result is None:
        first = _quantity(left[0])
        is_confirmed = first and len(parts) == 2 and _combine_to(_numbers(last), first[1])
        return first if is_confirmed else None
    steps = [_quantity(part) for part in left[1:]]
    # A number on the way to the result may only be the result before rounding.
    return None if any(step and abs(step[1] - result[1]) >= 1 for step in steps) else result


def _is_formula(text: str) -> bool:
    """Return whether a side of an equation has an unknown, as `2\\theta` or `total + 3`."""
    # "15 + 30" of "the toys of both together are 15 + 30"
    text = re.split(r"\b(?:is|are|was|were|be|has|have|had|made|makes)\b", text)[-1]
    operands = [part for part in _BETWEEN.split(text) if re.search(r"[^\W_]", part)]
    calculates = len(operands) > 1 or re.match(r"\s*[-|\\]", text) is not None
    return _UNKNOWN.search(text) is not None or (
        calculates and not all(re.search(r"\d|\\pi", part) for part in operands)
    )


def _spoken(text: str) -> Number | None:
    """Return the result of a calculation in words, as `9 times 2 is 18`."""
    for verb in reversed(list(_VERB.finditer(text))):
        left, result = text[: verb.start()], _quantity(text[verb.end() :])
        numbers = _numbers(left)
        if result and numbers and not single_letters(left):
            calculation = len(numbers) > 1 and _OPERATOR.search(left)
            return result if calculation or _combine_to(numbers, result[1]) else None
    return None


def _numbers(text: str) -> list[Fraction]:
    values = (value(match) for match in NUMBER.finditer(text))
    return [number for number in values if number is not None]


def _combine_to(numbers: Sequence[Fraction], result: Fraction) -> bool:
    """Return whether numbers have a result as sum or product, or two as difference or ratio."""
    if len(numbers) < 2:
        return False
    if result in (sum(numbers), math.prod(numbers)):
        return True
    first, second, *more = numbers
    return not more and (first - second == result or (second != 0 and first / second == result))


def _quantity(text: str) -> Number | None:
    """Return the only number of a text, if nothing but words and units is around it."""
    text = _MINUS.sub("-", text)
    match = NUMBER.search(text)
    if match is None or re.search(r"\d", text[: match.start()] + " " + text[match.end() :]):
        return None
    before, written = text[: match.start()], match[0].strip()
    after = _AFTER.match(text, match.end())
    assert after is not None, "the pattern matches the empty text"
    harmless = (
        _AROUND.fullmatch(before)
        and not _BEFORE.search(before)
        and _AROUND.fullmatch(text, after.end())
        and unit_may_follow(after[1])
        and not has_a_variable(before + " " + text[match.end() :])
        and not single_letters(before + " " + text[after.end() :], units=False)
        and not changes_a_number(before + " " + text[match.end() :])
        # In "- 5" the sign may be a dash, and "($5)" may be a loss.
        and not re.match(r"[-+]\s", written)
        and not (before.endswith("(") and re.search(rf"[{CURRENCY}]", written))
    )
    words_after = len(re.findall(r"[^\W\d_]+", text[match.end() :]))
    if not harmless or (re.search(r"\d \d{3}", match["whole"]) and words_after > 1):
        return None
    number = value(match)
    return None if number is None else (written, number)
