r"""Formulas of LaTeX in one spelling, and without the name of what they are the value of.

`\dfrac12` becomes `\frac{1}{2}`; sizes, spaces, degree and currency signs and units go; repeating
decimals become fractions. Of `x = 5`, `5 = x`, `f(3) = 5` and `3 + 2 = 5` remains `5`, while
`2x = 10` stays an equation.
"""

import re

from mergegrid.study.grading.answers.number_forms import fractions_for_repeating
from mergegrid.study.grading.answers.words import changes_a_number

Rewrites = list[tuple[re.Pattern[str], str]]


def rewrites(*pairs: tuple[str, str]) -> Rewrites:
    """Patterns and what takes their place, for `rewrite`."""
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


def rewrite(text: str, rewrites: Rewrites) -> str:
    """Text after replacements, one after the other."""
    for pattern, replacement in rewrites:
        text = pattern.sub(replacement, text)
    return text


DOLLARS = rewrites(
    (r"\\\$", ""),
    (r"(?<!\\)\\[\[\]()]|\$\$", "$"),
    (r"\*\*", ""),
)


WORDS = r"\\(?:text(?:bf|it|rm|sf|tt|up)?|math(?:rm|bf|it|sf)|mbox|operatorname)(?![A-Za-z])\s*"
"""The beginning of words in a formula."""
# Two letters may be two variables, unless they are a unit that everybody writes so.
_SHORT_UNIT = r"[ckmnd]m|[mk]g|m[lL]|[cd][lL]|k[WJ]|Hz|[KMGT]B|ft|in|mi|yd|lb|hr|oz|sq|cu|pt|qt"
_UNIT = (
    rf"(?:[A-Za-z]{{3,}}|{_SHORT_UNIT})\.?(?:\s*/\s*(?:[a-z]{{3,}}|{_SHORT_UNIT}|[smh])(?![a-z]))?"
    r"(?:\s*\^\s*\{?[23]\}?)?"
)
_MAGNITUDE = (
    r"\b(?:hundreds?|thousands?|[mbtr]+illions?|dozens?|mln|bln|grand|repeat(?:ing|ed)|recurring)\b"
)
# Words that may be a unit, with their power.
_WORDS_OF_UNIT = (
    rf"{WORDS}\{{(?!\s*(?:or|and)\b|[^{{}}]*{_MAGNITUDE})[^{{}}\d=]*\}}"
    r"(?:\s*\^\s*(?:\{-?\d\}|\d))?"
)
_UNITS_IN_WORDS = rf"{_WORDS_OF_UNIT}(?:(?:\s*(?:/|\\cdot(?![A-Za-z])))?\s*{_WORDS_OF_UNIT})+"
_SPELLINGS = rewrites(
    ("[\u2010-\u2015\u2212]", "-"),
    (r"\\!\s*", ""),
    (r"\{,\}", ","),
    (r"√\s*(\d+|\w)", r"\\sqrt{\1}"),
    (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    ("π|(?<![\\\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    ("∞", r"\\infty "),
    ("∪", r"\\cup "),
    ("≤", r"\\le "),
    ("≥", r"\\ge "),
    ("≠", r"\\ne "),
    ("±", r"\\pm "),
    ("θ", r"\\theta "),
    ("≈|\\\\approx(?![A-Za-z])", "="),
    ("×|\\\\times(?![A-Za-z])", r"\\cdot "),
    (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![A-Za-z])", ""),
    (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~|[\u00a0\u2009\u202f]", " "),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(le|ge|ne)q(?![A-Za-z])", r"\\\1"),
    (
        r"(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|°|\\degree(?![A-Za-z]))"
        r"(?:\s*(?:\\(?:text|mathrm)\s*\{\s*[CF]\s*\}|[CF])(?![A-Za-z]))?",
        "",
    ),
    (r"\\?\$|\\?%|[€£¥₹]", ""),
    # Words in the middle or alone are kept, those after a value are its unit.
    (rf"(?<=[\d}})])\s*{_UNITS_IN_WORDS}\s*$", ""),
    (rf"(?<=[^\s,=])\s*{_WORDS_OF_UNIT}\s*$", ""),
    (
        rf"(?<=[\d}}])\s*\\frac\s*\{{\s*{_WORDS_OF_UNIT}\s*\}}\s*\{{\s*{_WORDS_OF_UNIT}\s*\}}\s*$",
        "",
    ),
    (rf"{WORDS}\{{([^{{}}]*)\}}", r" \1 "),
    (r"^(?:negative|minus)\s+(?=[\d\\.(])", "-"),
    (rf"(?<=[\d}})])\s+(?!and\b|.*{_MAGNITUDE})(?:{_UNIT})(?:\s+(?:{_UNIT}))*\s*$", ""),
    (r"(?<=\d)\s+m\s*/\s*s(?:\s*\^\s*\{?2\}?)?\s*$", ""),
    (r",?\s+(?:and|or)\s+", ", "),
    (r"^(?:[Aa]n?|[Tt]he)\s+(?=[A-Za-z]{3})", ""),
    (r"^[\s,;:=]+|[\s,;:.=]+$", ""),
)
BRACES = rewrites(
    (r"\\frac\s*\\pi(?![A-Za-z])\s*([^{\s\\])", r"\\frac{\\pi}{\1}"),
    (r"\\frac\s*([^{\s\\])\s*([^{\s\\])", r"\\frac{\1}{\2}"),
    (r"\\frac\s*([^{\s\\])\s*\{", r"\\frac{\1}{"),
    (r"(\\frac\s*\{[^{}]*\})\s*([^{\s\\])", r"\1{\2}"),
    (r"\\sqrt\s*([^{\[\s\\])", r"\\sqrt{\1}"),
    (r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2"),
    # A space between two digits or letters may mean something.
    (r"(?<![\w\\])\s+|\s+(?!\w)|(?<=\d)\s+(?=[A-Za-z])|(?<=[A-Za-z])\s+(?=\d)", ""),
)
_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma"
    r"|tau|phi|varphi|chi|psi|omega|ell|Delta|Omega|Phi|Sigma|Theta)(?![A-Za-z])"
)
_NAME = (
    rf"(?:(?:[A-Za-z]|{_GREEK}|[A-Z]{{2,3}}|m?\s*\\angle\s*[A-Z]{{1,3}}"
    r"|\\(?:vec|overline|hat|bar)\s*\{?\s*[A-Za-z]{1,2}\s*\}?)'?(?:\s*_\s*(?:\w|\{[^{}]*\}))?"
    r"(?:\s*\([^()=]*\))?"
    r"|\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)"
    # Words, of which one has three letters.
    r"|(?=[A-Za-z' ]*[A-Za-z]{3})[A-Za-z]+(?:[ '][A-Za-z]+)*)"
)
_NAMED = re.compile(rf"\s*({_NAME})\s*(=|\\in(?![a-z]))\s*")
_NAME_LAST = re.compile(rf"\s*=\s*{_NAME}\s*$")
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_NUMERIC = re.compile(
    r"\\(?:frac|sqrt|cdot|div|pi|pm|binom|log|ln|sin|cos|tan|cot|sec|csc|arc(?:sin|cos|tan)"
    r"|[lr](?:floor|ceil|vert)|infty|[cl]?dots)(?![A-Za-z])"
)
_UNKNOWN = re.compile(r"\\[A-Za-z]|[\u0370-\u03ff]")
_COMPARES = re.compile(r"[<>]|\\(?:le|ge|ne|equiv|in)(?![a-z])")


def spelled(text: str) -> str:
    """Text in the one spelling, still with spaces."""
    return rewrite(fractions_for_repeating(" ".join(text.split())), _SPELLINGS)


def unnamed(text: str, other: str) -> str:
    """Text without the bare name that it gives a value to, unless the other has a relation too.

    The names are `x`, `f(3)`, `AB` or words, not `2x` or `x^2`. Of a calculation with its result,
    as `3 + 5 = 8`, the result remains.
    """
    if "=" in other or re.search(r"\\in(?![a-z])", other):
        return text
    name, name_last = _NAMED.match(text), _NAME_LAST.search(text)
    if any(each and changes_a_number(each[0]) for each in (name, name_last)):
        return text
    if name:
        text = text[name.end() :]
        text = re.sub(rf",\s*{re.escape(name[1])}\s*=\s*", ", ", text)
    else:
        text = _NAME_LAST.sub("", text)
    parts = text.split("=")
    chain = len(parts) > 1 and "," not in text and not _COMPARES.search(text)
    numeric = _NUMERIC.sub(" ", text)
    if chain and (name or not (_VARIABLE.search(numeric) or _UNKNOWN.search(numeric))):
        text = parts[-1]
    return text.strip()
