r"""Answers in LaTeX, as in MATH.

Robust rule. The answer is the last part of a text where one may stand (`judgement`); of a part
after a phrase its first sentence, or the one formula in dollars in it if no digit stands beside
it. Gold and answer are brought into one spelling, bare names are struck off (`spelling`), and
compared:

1. One spelling is right. Words, and numbers with the subscript of a base, are compared in no
   other way; in words, case makes no difference.
2. Where the gold is a number, the answer may be a sentence that gives one (`sentences`). Numbers
   are compared as fractions, never rounded. A percentage equals its number or, where only one
   side has the sign, a hundredth of it.
3. Else math-verify says whether both are one expression, relation, set, interval or matrix
   (`equality`). It gets decimals as fractions. `(1, 2)`, `[1, 2]` and `1, 2` differ, and an
   equation equals an equation only, up to a factor.

An answer in prose that is not right and holds more than words is unparsed: which part of it is
the answer is not certain.

Units are not compared (`5 cm` equals `5 m`, but 6 AM not 6 PM), nor is the form: `(x+1)^2` equals
`x^2+2x+1`.
"""

import re
from fractions import Fraction

from mergegrid.study.grading.answers.equality import LONGEST, PROSE, same
from mergegrid.study.grading.answers.judgement import Judgement, boxed, segments
from mergegrid.study.grading.answers.number_forms import exact, with_decimal_point
from mergegrid.study.grading.answers.paper_rule import paper_answer, paper_same
from mergegrid.study.grading.answers.sentences import read
from mergegrid.study.grading.answers.spelling import (
    BRACES,
    DOLLARS,
    WORDS,
    rewrite,
    spelled,
    unnamed,
)
from mergegrid.study.grading.answers.words import is_unsure

__all__ = ["LONGEST", "boxed", "judge", "number_in_prose"]

_FORMULA = re.compile(r"\$\s*([^$]*?)\s*\$")
_PERCENT = re.compile(r"%|\bper\s?cent\b")
_BASE = re.compile(r"\d\s*_")
_LETTER = re.compile(r"\(([A-Za-z])\)")
_NOON = re.compile(
    r"(?<=\d)(?::00)?\s*(?:\\[a-z]+\s*\{)?\s*([ap])\.?\s?m\b\.?\s*\}?", re.IGNORECASE
)
# A letter alone may be a variable, where it is no unit after a space.
_VARIABLE = re.compile(
    r"(?<![A-Za-z\\/])(?!(?<=\d\s)[mgshlL](?![A-Za-z]))(?!(?<=\w\s)x\s+[\d$])[A-Za-z](?![A-Za-z])"
)


def _answer(output: str) -> tuple[str, str | None] | None:
    """The answer as it is written, and with a decimal point for a comma, where that is certain."""
    for segment in segments(output):
        text = rewrite(segment.text, DOLLARS)
        if not segment.ends:
            text = _FORMULA.sub(lambda formula: f"${' '.join(formula[1].split())}$", text)
            text = next((line for line in text.splitlines() if line.strip(" :")), "")
            text = re.split(r"(?<!\.)\.(?=\s+[^\s+*/×÷·=-]|\s*$)|。", text, maxsplit=1)[0]
        formulas = _FORMULA.findall(text)
        if len(formulas) == 1 and not re.search(r"\d", _FORMULA.sub("", text)):
            text = formulas[0]
        text = " ".join(text.replace("$", " ").split()).strip(" :")
        if text:
            return text, with_decimal_point(text) if segment.decimal_comma else text
    return None


def _number(text: str) -> Fraction | None:
    """The number that an answer to a question with a number gives."""
    number = exact(spelled(text))
    if number is not None:
        return number
    found = None if _VARIABLE.search(_NOON.sub("", text)) else read(text)
    return found[1] if found else None


def _same(gold: str, answer: str, pointed: str | None) -> bool:
    percent = [bool(_PERCENT.search(text)) for text in (gold, answer)]
    halves = [_NOON.search(text) for text in (gold, answer)]
    if halves[0] and halves[1] and halves[0][1].lower() != halves[1][1].lower():
        return False
    gold, answer = _NOON.sub("", gold), _NOON.sub("", answer)
    words = re.search(WORDS + r"\{\s*\(?[A-Za-z]", gold) is not None
    gold, answer = spelled(gold), spelled(answer)
    gold, answer = unnamed(gold, answer), unnamed(answer, gold)
    if not gold or not answer:
        return False
    short = [_LETTER.sub(r"\1", rewrite(text, BRACES)) for text in (gold, answer)]
    if short[0] == short[1]:
        return True
    if PROSE.fullmatch(short[0]) or (words and not re.search(r"[\d\\]", short[0])):
        return short[0].casefold() == short[1].casefold()
    expected = exact(gold)
    if expected is not None:
        number = _number(pointed) if pointed and not _BASE.search(answer) else None
        if number is None:
            number = _number(answer)
        if number is not None:
            return _same_number(expected, number, percent)
    if _BASE.search(gold) or _BASE.search(answer):
        return False
    return same(*(rewrite(text, BRACES) for text in (gold, answer)))


def _same_number(gold: Fraction, answer: Fraction, percent: list[bool]) -> bool:
    if gold == answer:
        return True
    return percent[0] != percent[1] and (gold / 100 if percent[0] else gold) == (
        answer / 100 if percent[1] else answer
    )


def _is_open(answer: str) -> bool:
    """Whether an answer in prose leaves open what it answers."""
    text = spelled(answer)
    prose = PROSE.search(text) is not None
    return prose and (is_unsure(text) or (re.search(r"\d", text) is not None and not read(answer)))


def number_in_prose(text: str) -> str | None:
    """The number that a text gives in words, as `The answer is 5.`; else None."""
    found = read(text) if PROSE.search(spelled(text)) else None
    return found[0] if found else None


def judge(reference: str, output: str) -> Judgement:
    r"""Whether a model's text ends in the answer of a MATH problem.

    Args:
        reference: the gold answer, without its `\boxed{}`.
        output: what the model wrote.
    """
    answer, paper = _answer(output), paper_answer(output)
    correct = answer is not None and _same(rewrite(reference, DOLLARS), *answer)
    return Judgement(
        extracted=None if answer is None or (not correct and _is_open(answer[0])) else answer[0],
        correct=correct,
        paper_extracted=paper,
        paper_correct=paper is not None and paper_same(reference, paper),
    )
