r"""Normalize the spelling of LaTeX formulas, and drop the name that a formula is the value of.

\dfrac12  \frac{1}2                        \frac{1}{2}   (with `BRACES`)
\left(1,\,2\right)  (1, 2)                (1, 2)
90^\circ  \$90  90\%  90\text{ cm}         90
x = 5  5 = x  f(3) = 5  3 + 2 = 5          5   (`without_name`); `2x = 10` stays
"""

import re

from mergegrid.study.grading.answers.number_forms import fractions_for_repeating
from mergegrid.study.grading.answers.words import changes_a_number

Rewrites = list[tuple[re.Pattern[str], str]]


def rewrites(*pairs: tuple[str, str]) -> Rewrites:
    """Compile pairs of a pattern and its replacement for `rewrite`."""
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


def rewrite(text: str, rewrites: Rewrites) -> str:
    """Apply rewrites to a text, one after the other."""
    for pattern, replacement in rewrites:
        text = pattern.sub(replacement, text)
    return text


DOLLARS = rewrites(
    (r"\\\$", ""),  # \$5 -> 5
    (r"(?<!\\)\\[\[\]()]|\$\$", "$"),  # \(x\), \[x\], $$x$$ -> $x$
    (r"\*\*", ""),  # **5** -> 5
)
"""Currency, one kind of delimiter for formulas, and no emphasis."""


WORDS = r"\\(?:text(?:bf|it|rm|sf|tt|up)?|math(?:rm|bf|it|sf)|mbox|operatorname)(?![A-Za-z])\s*"
"""The start of words in a formula: `\\text` of `\\text{ cm}`."""
# Other pairs of letters may be two variables.
_SHORT_UNIT = r"[ckmnd]m|[mk]g|m[lL]|[cd][lL]|k[WJ]|Hz|[KMGT]B|ft|in|mi|yd|lb|hr|oz|sq|cu|pt|qt"
# "feet", "km", "meters/sec", "m/s", "cm^2"
_UNIT = (
    rf"(?:[A-Za-z]{{3,}}|{_SHORT_UNIT})\.?(?:\s*/\s*(?:[a-z]{{3,}}|{_SHORT_UNIT}|[smh])(?![a-z]))?"
    r"(?:\s*\^\s*\{?[23]\}?)?"
)
# Words after a number that change it: "5 thousand", "0.3 repeating"
_MAGNITUDE = (
    r"\b(?:hundreds?|thousands?|[mbtr]+illions?|dozens?|mln|bln|grand|repeat(?:ing|ed)|recurring)\b"
)
# \text{ cm}, \mathrm{cm}^2, but not \text{ or }, \text{ thousand}
_WORDS_OF_UNIT = (
    rf"{WORDS}\{{(?!\s*(?:or|and)\b|[^{{}}]*{_MAGNITUDE})[^{{}}\d=]*\}}"
    r"(?:\s*\^\s*(?:\{-?\d\}|\d))?"
)
# \text{ km}/\text{h}
_UNITS_IN_WORDS = rf"{_WORDS_OF_UNIT}(?:(?:\s*(?:/|\\cdot(?![A-Za-z])))?\s*{_WORDS_OF_UNIT})+"
_SYMBOLS = {"∞": "infty", "∪": "cup", "≤": "le", "≥": "ge", "≠": "ne", "±": "pm", "θ": "theta"}
_SPELLINGS = rewrites(
    ("[\u2010-\u2015\u2212]", "-"),  # –5 -> -5
    (r"\\!\s*", ""),  # 12\!345 -> 12345
    (r"\{,\}", ","),  # 1{,}234 -> 1,234
    (r"√\s*(\d+|\w)", r"\\sqrt{\1}"),  # √3 -> \sqrt{3}
    (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),  # sqrt(3) -> \sqrt{3}
    ("π|(?<![\\\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    *((symbol, rf"\\{name} ") for symbol, name in _SYMBOLS.items()),
    ("≈|\\\\approx(?![A-Za-z])", "="),  # x ≈ 5 -> x = 5
    ("×|\\\\times(?![A-Za-z])", r"\\cdot "),
    # \left(x\right) -> (x)
    (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![A-Za-z])", ""),
    # x\,y, x~y -> x y
    (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~|[\u00a0\u2009\u202f]", " "),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(le|ge|ne)q(?![A-Za-z])", r"\\\1"),  # \leq -> \le
    # 90^\circ, 90°C -> 90
    (
        r"(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|°|\\degree(?![A-Za-z]))"
        r"(?:\s*(?:\\(?:text|mathrm)\s*\{\s*[CF]\s*\}|[CF])(?![A-Za-z]))?",
        "",
    ),
    (r"\\?\$|\\?%|[€£¥₹]", ""),  # \$5, 5\% -> 5
    # Words after a value are its unit; words in the middle or alone are kept.
    # 5\text{ km}/\text{h} -> 5
    (rf"(?<=[\d}})])\s*{_UNITS_IN_WORDS}\s*$", ""),
    (rf"(?<=[^\s,=])\s*{_WORDS_OF_UNIT}\s*$", ""),  # 5\text{ cm}^2 -> 5
    # 5 \frac{\text{km}}{\text{h}} -> 5
    (
        rf"(?<=[\d}}])\s*\\frac\s*\{{\s*{_WORDS_OF_UNIT}\s*\}}\s*\{{\s*{_WORDS_OF_UNIT}\s*\}}\s*$",
        "",
    ),
    (rf"{WORDS}\{{([^{{}}]*)\}}", r" \1 "),  # \text{Monday} -> Monday
    # negative 5 -> -5
    (r"^(?:negative|minus)\s+(?=[\d\\.(])", "-"),
    # 5 square feet -> 5; 5 thousand stays
    (rf"(?<=[\d}})])\s+(?!and\b|.*{_MAGNITUDE})(?:{_UNIT})(?:\s+(?:{_UNIT}))*\s*$", ""),
    (r"(?<=\d)\s+m\s*/\s*s(?:\s*\^\s*\{?2\}?)?\s*$", ""),  # 5 m/s^2 -> 5
    (r",?\s+(?:and|or)\s+", ", "),  # 2 and 3 -> 2, 3
    # the median -> median
    (r"^(?:[Aa]n?|[Tt]he)\s+(?=[A-Za-z]{3})", ""),
    (r"^[\s,;:=]+|[\s,;:.=]+$", ""),  # = 5. -> 5
)
BRACES = rewrites(
    (r"\\frac\s*\\pi(?![A-Za-z])\s*([^{\s\\])", r"\\frac{\\pi}{\1}"),  # \frac\pi2
    (r"\\frac\s*([^{\s\\])\s*([^{\s\\])", r"\\frac{\1}{\2}"),  # \frac12 -> \frac{1}{2}
    (r"\\frac\s*([^{\s\\])\s*\{", r"\\frac{\1}{"),  # \frac1{72} -> \frac{1}{72}
    (r"(\\frac\s*\{[^{}]*\})\s*([^{\s\\])", r"\1{\2}"),  # \frac{72}3 -> \frac{72}{3}
    (r"\\sqrt\s*([^{\[\s\\])", r"\\sqrt{\1}"),  # \sqrt3 -> \sqrt{3}
    (r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2"),  # x^{2} -> x^2
    # 3 x + 1 -> 3x+1, but a space between two digits or two letters may mean something.
    (r"(?<![\w\\])\s+|\s+(?!\w)|(?<=\d)\s+(?=[A-Za-z])|(?<=[A-Za-z])\s+(?=\d)", ""),
)
"""Braces around every argument, and no spaces that mean nothing."""
_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma"
    r"|tau|phi|varphi|chi|psi|omega|ell|Delta|Omega|Phi|Sigma|Theta)(?![A-Za-z])"
)
# x, AB, \theta, \angle ABC, \vec{v}, x_1, f(3) | (x, y) | total cost
_NAME = (
    rf"(?:(?:[A-Za-z]|{_GREEK}|[A-Z]{{2,3}}|m?\s*\\angle\s*[A-Z]{{1,3}}"
    r"|\\(?:vec|overline|hat|bar)\s*\{?\s*[A-Za-z]{1,2}\s*\}?)'?(?:\s*_\s*(?:\w|\{[^{}]*\}))?"
    r"(?:\s*\([^()=]*\))?"
    r"|\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)"
    # Words, at least one of them of three letters.
    r"|(?=[A-Za-z' ]*[A-Za-z]{3})[A-Za-z]+(?:[ '][A-Za-z]+)*)"
)
# "x =", "x \in"
_NAME_FIRST = re.compile(rf"\s*({_NAME})\s*(=|\\in(?![a-z]))\s*")
# "= x"
_NAME_LAST = re.compile(rf"\s*=\s*{_NAME}\s*$")
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
# Commands that a number may contain
_NUMERIC = re.compile(
    r"\\(?:frac|sqrt|cdot|div|pi|pm|binom|log|ln|sin|cos|tan|cot|sec|csc|arc(?:sin|cos|tan)"
    r"|[lr](?:floor|ceil|vert)|infty|[cl]?dots)(?![A-Za-z])"
)
# \theta, θ
_UNKNOWN = re.compile(r"\\[A-Za-z]|[\u0370-\u03ff]")
# x < 5, x \in A
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|equiv|in)(?![a-z])")


def normalized(text: str) -> str:
    """Return a text in the normalized spelling, which keeps spaces."""
    return rewrite(fractions_for_repeating(" ".join(text.split())), _SPELLINGS)


def without_name(text: str, other: str) -> str:
    """Drop the bare name that a text gives a value to, unless the other text has a relation too.

    Names are `x`, `f(3)`, `AB` or words, not `2x` or `x^2`. Of a calculation with its result, as
    `3 + 5 = 8`, only the result is kept.
    """
    if "=" in other or re.search(r"\\in(?![a-z])", other):
        return text
    first, last = _NAME_FIRST.match(text), _NAME_LAST.search(text)
    if any(name and changes_a_number(name[0]) for name in (first, last)):
        return text
    if first:
        text = text[first.end() :]
        text = re.sub(rf",\s*{re.escape(first[1])}\s*=\s*", ", ", text)
    else:
        text = _NAME_LAST.sub("", text)
    parts = text.split("=")
    is_chain = len(parts) > 1 and "," not in text and not _RELATION.search(text)
    rest = _NUMERIC.sub(" ", text)
    if is_chain and (first or not (_VARIABLE.search(rest) or _UNKNOWN.search(rest))):
        text = parts[-1]
    return text.strip()
