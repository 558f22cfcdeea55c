r"""Grade answers that are one number, as in GSM8K.

    gold "#### 18", answer "9 eggs * $2 = $18 a day. The answer is: $18"   -> right
    gold "#### 18", answer "The answer is between 17 and 18."              -> unparsed

Robust rule: the last segment that may hold the answer (`segments`) and has a digit is read as a
sentence (`sentences`), which gives one number or none. A text without a marker is read only if it
is nothing but one number, because its last number would often be right by chance. Numbers are
compared as fractions, never rounded.

The paper's rule needs the literal cue "The answer is: ", takes the first number after it
(`1,234,567` reads as 1,234) and rounds it to an integer, half to even.
"""

import re

from mergegrid.errors import DataError
from mergegrid.study.grading.answers.answer_grade import AnswerGrade
from mergegrid.study.grading.answers.number_forms import exact, plain, with_decimal_point
from mergegrid.study.grading.answers.segments import final_part, paper_segment, segments
from mergegrid.study.grading.answers.sentences import LONGEST, Number, read

# "-1,234", "5/2", ".5"
_PAPER_NUMBER = re.compile(r"[-+]?\d*[.,/]?\d+")


def grade(reference: str, output: str) -> AnswerGrade:
    """Grade whether a text ends in the number of a GSM8K answer (what follows "####").

    Args:
        reference: A GSM8K answer with its solution, or the number alone.
        output: The model's text.

    Raises:
        DataError: The reference has no number.
    """
    written = reference.rpartition("####")[2].strip()
    expected = exact(written)
    if expected is None:
        raise DataError(
            f"the reference answer ends in {written[-80:]!r}, which is not a number; "
            "use a GSM8K answer with its number after '####', or the number alone"
        )
    number, paper = _answer(output), _paper_number(output)
    return AnswerGrade(
        extracted=number[0] if number else None,
        correct=number is not None and number[1] == expected,
        paper_extracted=None if paper is None else str(paper),
        paper_correct=paper is not None and float(paper) == float(expected),
    )


def _answer(output: str) -> Number | None:
    for segment in segments(output):
        line = segment.text if segment.is_whole else segment.text.strip(" \n*:").partition("\n")[0]
        if re.search(r"\d", plain(line[:LONGEST])):
            text = with_decimal_point(segment.text) if segment.decimal_comma else segment.text
            return None if text is None else read(text, is_whole=segment.is_whole)
    text = final_part(output)
    text = plain(text).rstrip(". $") if len(text) <= LONGEST else ""
    value = exact(text)
    return None if value is None else (text, value)


def _paper_number(output: str) -> int | None:
    """Return the first number after the paper's cue, rounded half to even."""
    segment = paper_segment(output)
    match = _PAPER_NUMBER.search(segment or "")
    if match is None:
        return None
    top, slash, bottom = match[0].replace(",", "").partition("/")
    try:
        value = float(top)
        # The paper's rule reads a division by zero as the numerator.
        divisor = float(bottom) if slash else 1.0
        return round(value / divisor if divisor else value)
    except (ValueError, OverflowError):
        return None
