r"""Answers that are one number, as in GSM8K.

Robust rule. The last part of a text where an answer may stand (`judgement`) and which holds a
digit is read as a sentence (`sentences`): it is one number, or unparsed. A text without any marker
is read only if it is nothing but one number: the last number of a text would often be taken for
its answer by chance. Numbers are compared as fractions, never rounded.

The paper's rule wants the literal cue "The answer is: ", takes the first number after it
(`1,234,567` reads as 1,234) and rounds it to an integer, half to even.
"""

import re

from mergegrid.errors import DataError
from mergegrid.study.grading.answers.judgement import Judgement, final_part, paper_segment, segments
from mergegrid.study.grading.answers.number_forms import exact, plain, with_decimal_point
from mergegrid.study.grading.answers.sentences import LONGEST, Read, read

__all__ = ["exact", "judge"]

_PAPER_NUMBER = re.compile(r"[-+]?\d*[.,/]?\d+")


def _answer(output: str) -> Read | None:
    for segment in segments(output):
        line = segment.text if segment.ends else segment.text.strip(" \n*:").partition("\n")[0]
        if re.search(r"\d", plain(line[:LONGEST])):
            text = with_decimal_point(segment.text) if segment.decimal_comma else segment.text
            return None if text is None else read(text, ends=segment.ends)
    text = final_part(output)
    text = plain(text).rstrip(". $") if len(text) <= LONGEST else ""
    value = exact(text)
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
