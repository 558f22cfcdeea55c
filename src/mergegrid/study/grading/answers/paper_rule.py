r"""The rule by which MATH was first scored, as the paper has it.

It takes the text after the last literal cue "The answer is: " up to a full stop that ends a line,
respells it, and compares strings.
"""

from mergegrid.study.grading.answers.judgement import paper_segment
from mergegrid.study.grading.answers.spelling import rewrite, rewrites

_PAPER_SPELLINGS = rewrites(
    (r"\n|\\!", ""),
    (r"\\\\", r"\\"),
    (r"\\[dt]frac", r"\\frac"),
    (r"\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$", ""),
)
_PAPER_BRACES = rewrites(
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
    text = rewrite(text, _PAPER_SPELLINGS)
    if text.count(r"\text{ ") > 1:
        return None
    text = rewrite(text.partition(r"\text{ ")[0], _PAPER_BRACES)
    top, slash, bottom = text.partition("/")
    if not slash or "/" in bottom:
        return text
    try:
        quotient = rf"\frac{{{int(top)}}}{{{int(bottom)}}}"
    except ValueError:
        return None
    return quotient if text == f"{int(top)}/{int(bottom)}" else text


def paper_answer(output: str) -> str | None:
    """What the paper's rule takes for the answer."""
    segment = paper_segment(output)
    if segment is None:
        return None
    return segment.partition(".\n")[0].strip().removesuffix(".").strip() or None


def paper_same(gold: str, answer: str) -> bool:
    """Whether two answers are one string in the spelling of the paper's rule."""
    spelled = _paper_spelling(gold), _paper_spelling(answer)
    return gold == answer if None in spelled else spelled[0] == spelled[1]
