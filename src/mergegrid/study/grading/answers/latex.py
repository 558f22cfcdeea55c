r"""Grade answers in LaTeX, as in MATH.

    gold "\frac{1}{2}", answer "So x = \boxed{0.5}."             -> right
    gold "(1,2)",       answer "The answer is [1,2]."            -> wrong
    gold "4",           answer "The answer is at least 4."       -> unparsed

Robust rule: the answer is the last segment that may hold it (`segments`); of a segment after a
phrase its first sentence, or the only formula in dollars in it if there is no digit outside. Gold
and answer are normalized and bare names are dropped (`spelling`), then:

1. Equal spellings are right. Words, and numbers with a base as subscript, are compared in no other
   way; words are compared without case.
2. If the gold is a number, the answer may be a sentence that gives one (`sentences`). Numbers are
   compared as fractions, never rounded. A percentage equals its number or, if only one side has
   the sign, a hundredth of it.
3. Otherwise math-verify decides whether both are the same expression, relation, set, interval or
   matrix (`equality`). `(1, 2)`, `[1, 2]` and `1, 2` differ, and an equation equals only an
   equation, up to a factor.

An answer in prose that is not right and holds more than words is unparsed, because it is uncertain
which part of it is the answer. Units are not compared (`5 cm` equals `5 m`, but 6 AM is not 6 PM),
nor is the form: `(x+1)^2` equals `x^2+2x+1`.
"""

import re
from fractions import Fraction

from mergegrid.study.grading.answers.answer_grade import AnswerGrade
from mergegrid.study.grading.answers.equality import PROSE, equal
from mergegrid.study.grading.answers.number_forms import exact, with_decimal_point
from mergegrid.study.grading.answers.paper_rule import paper_answer, paper_equal
from mergegrid.study.grading.answers.segments import boxed, segments
from mergegrid.study.grading.answers.sentences import read
from mergegrid.study.grading.answers.spelling import (
    BRACES,
    DOLLARS,
    WORDS,
    normalized,
    rewrite,
    without_name,
)
from mergegrid.study.grading.answers.words import is_uncertain

__all__ = ["boxed", "grade", "number_in_prose"]

_FORMULA = re.compile(r"\$\s*([^$]*?)\s*\$")
_PERCENT = re.compile(r"%|\bper\s?cent\b")
# A number with a base: 101_2
_BASE = re.compile(r"\d\s*_")
# (A) -> A
_LETTER = re.compile(r"\(([A-Za-z])\)")
# The "p" of "6:00 p.m.", "6 \text{ PM}"
_AM_OR_PM = re.compile(
    r"(?<=\d)(?::00)?\s*(?:\\[a-z]+\s*\{)?\s*([ap])\.?\s?m\b\.?\s*\}?", re.IGNORECASE
)
# A single letter, as in "3 y", but neither a unit after a space, "3 m", nor a sign, "3 x 4".
_VARIABLE = re.compile(
    r"(?<![A-Za-z\\/])(?!(?<=\d\s)[mgshlL](?![A-Za-z]))(?!(?<=\w\s)x\s+[\d$])[A-Za-z](?![A-Za-z])"
)
# "It is 5" of "It is 5. Then ...", not of "5 . 3" or "1...2"
_SENTENCE_ENDS = re.compile(r"(?<!\.)\.(?=\s+[^\s+*/×÷·=-]|\s*$)|。")


def grade(reference: str, output: str) -> AnswerGrade:
    r"""Grade whether a text ends in the answer of a MATH problem.

    Args:
        reference: The gold answer, without its `\boxed{}`.
        output: The model's text.
    """
    answer, paper = _answer(output), paper_answer(output)
    correct = answer is not None and _equal(rewrite(reference, DOLLARS), *answer)
    is_read = answer is not None and (correct or not _is_ambiguous(answer[0]))
    return AnswerGrade(
        extracted=answer[0] if answer is not None and is_read else None,
        correct=correct,
        paper_extracted=paper,
        paper_correct=paper is not None and paper_equal(reference, paper),
    )


def number_in_prose(text: str) -> str | None:
    """Return the number that a text in words gives, as `The answer is 5.`; else None."""
    number = read(text) if PROSE.search(normalized(text)) else None
    return number[0] if number else None


def _answer(output: str) -> tuple[str, str | None] | None:
    """Return the answer as written and, if its language has a decimal comma, with a point.

    The second is None if it is uncertain whether a comma is a decimal comma.
    """
    for segment in segments(output):
        text = rewrite(segment.text, DOLLARS)
        if not segment.is_whole:
            text = _FORMULA.sub(lambda formula: f"${' '.join(formula[1].split())}$", text)
            text = next((line for line in text.splitlines() if line.strip(" :")), "")
            text = _SENTENCE_ENDS.split(text, maxsplit=1)[0]
        formulas = _FORMULA.findall(text)
        if len(formulas) == 1 and not re.search(r"\d", _FORMULA.sub("", text)):
            text = formulas[0]
        text = " ".join(text.replace("$", " ").split()).strip(" :")
        if text:
            return text, with_decimal_point(text) if segment.decimal_comma else text
    return None


def _equal(gold: str, answer: str, pointed: str | None) -> bool:
    """Return whether an answer equals the gold.

    Args:
        gold: The gold answer.
        answer: The answer.
        pointed: The answer with a decimal point for a decimal comma, if that is certain.
    """
    percent = [bool(_PERCENT.search(text)) for text in (gold, answer)]
    times = [_AM_OR_PM.search(text) for text in (gold, answer)]
    if times[0] and times[1] and times[0][1].lower() != times[1][1].lower():
        return False
    gold, answer = _AM_OR_PM.sub("", gold), _AM_OR_PM.sub("", answer)
    in_words = re.search(WORDS + r"\{\s*\(?[A-Za-z]", gold) is not None
    gold, answer = normalized(gold), normalized(answer)
    gold, answer = without_name(gold, answer), without_name(answer, gold)
    if not gold or not answer:
        return False
    short = [_LETTER.sub(r"\1", rewrite(text, BRACES)) for text in (gold, answer)]
    if short[0] == short[1]:
        return True
    if PROSE.fullmatch(short[0]) or (in_words and not re.search(r"[\d\\]", short[0])):
        return short[0].casefold() == short[1].casefold()
    expected = exact(gold)
    if expected is not None:
        number = _number(pointed) if pointed and not _BASE.search(answer) else None
        if number is None:
            number = _number(answer)
        if number is not None:
            return _equal_numbers(expected, number, percent)
    if _BASE.search(gold) or _BASE.search(answer):
        return False
    return equal(*(rewrite(text, BRACES) for text in (gold, answer)))


def _number(text: str) -> Fraction | None:
    """Return the number that an answer gives: a number alone, or one in a sentence."""
    number = exact(normalized(text))
    if number is not None:
        return number
    in_sentence = None if _VARIABLE.search(_AM_OR_PM.sub("", text)) else read(text)
    return in_sentence[1] if in_sentence else None


def _equal_numbers(gold: Fraction, answer: Fraction, percent: list[bool]) -> bool:
    if gold == answer:
        return True
    return percent[0] != percent[1] and (gold / 100 if percent[0] else gold) == (
        answer / 100 if percent[1] else answer
    )


def _is_ambiguous(answer: str) -> bool:
    """Return whether an answer in prose leaves open what it answers."""
    text = normalized(answer)
    if not PROSE.search(text):
        return False
    return is_uncertain(text) or (re.search(r"\d", text) is not None and not read(answer))
