r"""The rule by which MATH was first scored, as the paper's code applies it.

It takes the text after the last literal cue "The answer is: ", up to a full stop that ends a line,
normalizes its spelling and compares strings:

    "The answer is: \dfrac12."   -> "\frac{1}{2}"
"""

from mergegrid.study.grading.answers.segments import paper_segment
from mergegrid.study.grading.answers.spelling import rewrite, rewrites

_SPELLINGS = rewrites(
    (r"\n|\\!", ""),  # 12\!345 -> 12345
    (r"\\\\", r"\\"),
    (r"\\[dt]frac", r"\\frac"),
    (r"\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$", ""),
)
_BRACES = rewrites(
    (r"\\%", ""),
    (r"(^|[ {])\.", r"\g<1>0."),  # .5 -> 0.5
    (r"^([^=]{0,2})=([^=]*)$", r"\2"),  # x=5 -> 5
    (r"\\sqrt(?!\{)(.)", r"\\sqrt{\1}"),  # \sqrt3 -> \sqrt{3}
    (" ", ""),
    (r"\\frac(?!\{)(.)(?!\{)(.)", r"\\frac{\1}{\2}"),  # \frac12 -> \frac{1}{2}
    (r"\\frac(?!\{)(.)\{", r"\\frac{\1}{"),  # \frac1{72} -> \frac{1}{72}
    (r"^0\.5$", r"\\frac{1}{2}"),
)


def paper_answer(output: str) -> str | None:
    """Return the answer under the paper's rule."""
    segment = paper_segment(output)
    if segment is None:
        return None
    return segment.partition(".\n")[0].strip().removesuffix(".").strip() or None


def paper_equal(gold: str, answer: str) -> bool:
    """Return whether two answers are the same string in the spelling of the paper's rule."""
    spelled = _normalized(gold), _normalized(answer)
    return gold == answer if None in spelled else spelled[0] == spelled[1]


def _normalized(text: str) -> str | None:
    r"""Return the spelling of the paper's rule, or None where it gives up.

    It gives up on a text with two `\text{ ` and on a quotient that is not of integers.
    """
    text = rewrite(text, _SPELLINGS)
    if text.count(r"\text{ ") > 1:
        return None
    text = rewrite(text.partition(r"\text{ ")[0], _BRACES)
    top, slash, bottom = text.partition("/")
    if not slash or "/" in bottom:
        return text
    try:
        quotient = rf"\frac{{{int(top)}}}{{{int(bottom)}}}"
    except ValueError:
        return None
    return quotient if text == f"{int(top)}/{int(bottom)}" else text
