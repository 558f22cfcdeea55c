r"""Numbers as people and models write them, read exactly.

Read are signs (hyphen, minus, dash before a digit), currency, thousands separators (`1,234`,
`1 234`, `1'234`, `1.234.567`, `12,34,567`), decimals, repeating decimals (`0.\overline{3}`),
fractions (`5/2`, `\frac{5}{2}`, `2 1/2`, `2½`), powers of ten (`1e3`, `1.5 x 10^3`), `hundred` to
`billion`, an attached `k`, and full-width digits. Numbers are fractions, never rounded.
"""

import re
import unicodedata
from fractions import Fraction

_MULTIPLES = {"k": 10**3, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_DIGITS = (
    r"(?:(?:[1-9]\d{0,2}(?:(?:,\d{3}){1,19}|(?: \d{3}){1,19}|(?:['’]\d{3}){1,19})"
    r"|[1-9]\d?(?:,\d{2}){1,9},\d{3})(?!\d)(?:\.\d{1,60})?"
    r"|[1-9]\d{0,2}(?:(?:\.\d{3}){1,19},\d{1,2}|(?:\.\d{3}){2,19})(?![\d,.]\d|\d)"
    r"|\d{1,60}(?:\.\d{1,60})?|\.\d{1,60})"
)
_FRACTION = r"(?:[ ](?:and[ ])?\d{1,20}/\d{1,20}|[ ]?/[ ]?[-+]?" + _DIGITS + ")"
CURRENCY = "$€£¥₹"
NUMBER = re.compile(
    rf"(?<![\w.,:/])(?P<sign>[-+]?)[{CURRENCY}]?(?<![\w.,:/])[ ]?(?P<minus>-?)"
    rf"(?P<whole>{_DIGITS})(?P<part>{_FRACTION})?"
    r"(?:[eE](?P<exponent>[-+]?\d{1,2})|[ ]?[x×*][ ]?10[ ]?\^[ ]?(?P<power>[-+]?\d{1,2})(?!\d))?"
    r"(?!\d|[.,:/]\d)(?P<multiple>[kK]\b|[ ]?(?:hundred|thousand|million|billion)\b)?"
)
"""A number with its sign and currency; `value` reads its matches."""

_ARGUMENT = r"\s*(?:\{\s*([^{}]*?)\s*\}|(\d))"
_LATEX_FRACTION = re.compile(rf"(\d?)\s*\\[dtc]?frac{_ARGUMENT}{_ARGUMENT}")
_REPEATING = re.compile(
    r"(?<![\d.,])(\d*)\.(\d*?)(?:\\(?:overline|bar|dot|overset\{\.\})\s*(?:\{\s*(\d+)\s*\}|(\d))"
    r"|(?<=\.)\((\d+)\)|(\d)\6{2,}\s*(?:\.\.\.+|…|\\[lc]?dots(?![A-Za-z])))(?![\d.\\])"
)
_TWO_DOTS = re.compile(r"\\dot\s*(?:\{(\d)\}|(\d))(\d*)\\dot\s*(?:\{(\d)\}|(\d))")
_LENGTHS = (
    r"(?:\\(?:text|mathrm|mbox)\{\s*)?(?:[kcmd]?m|ft|in|mi|yd|units?|inches|feet|met(?:er|re)s?)"
)
_MARKS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[\u2212\u2010\u2011\ufe63]", "-"),
        # A dash in front of a digit is a sign, between numbers it is a range.
        ("(?:(?<=[\\s($=:{*])|^)[\u2012\u2013](?=\\\\?[$€£¥₹]?[\\d.])", "-"),
        # A long dash after a word is punctuation.
        ("(?:(?<=[($=:{*])|(?<=[=:(]\\s)|^\\s*)[\u2014\u2015](?=\\\\?[$€£¥₹]?[\\d.])", "-"),
        (r"\\!\s*", ""),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))", "°"),
        (r"(?<![\w.,)^×*])(?<![\w)×*]\s)10\s?\^\s?\{?(-?\d{1,2})\}?(?!\s?[\d.^!])", r"1e\1"),
        (r"\{,\}", ","),
        (r"\\[,;: ]|~|[\u00a0\u2009\u202f]", " "),
        (r"\\(?:left|right|displaystyle)(?![A-Za-z])|__|`|<<[^<>]*>>", ""),
        # **18** is emphasis, 2**4 is a power.
        (r"(?<![\w)])\*\*|\*\*(?![\w(])", ""),
        # *5* is emphasis, 2 * 5 is not.
        (r"(?<![\w*)])(?<![\w)]\s)\*(\S|\S[^*\n]*\S)\*(?![\w*])", r"\1"),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "×"),
        (r"\\div(?![A-Za-z])", "÷"),
        (r"\\([$%])", r"\1"),
        (r"\$(?=-?\$)", ""),
        (r"\\[\[\]()]", " "),
        (r"(?<=\d) and a half\b", " 1/2"),
        (rf"(?<=\d)(\s*{_LENGTHS})(?:\}}?\s*\^\s*\{{?[23]\}}?)(?![\w^])", r"\1"),
    )
]
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up)?|math(?:rm|bf|it|sf|tt|normal)|mbox|operatorname|boldsymbol)"
    r"(?![A-Za-z])|[{}]"
)
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_SUPERSCRIPTS = re.compile("[⁻⁰¹²³⁴-⁹]+")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def fractions_for_repeating(text: str) -> str:
    r"""Text with its repeating decimals, as `0.1\overline{6}`, as fractions of LaTeX."""
    text = _TWO_DOTS.sub(r"\\overline{\1\2\3\4\5}", text)
    return _REPEATING.sub(_repeating, text)


def _repeating(match: re.Match[str]) -> str:
    whole, before = match[1], match[2]
    again = match[3] or match[4] or match[5] or match[6]
    top = int(whole + before + again) - int(whole + before or "0")
    return rf"\frac{{{top}}}{{{(10 ** len(again) - 1) * 10 ** len(before)}}}"


def _fraction(match: re.Match[str]) -> str:
    before, top, digit, bottom, last = match.groups()
    return f"{before} {top or digit}/{bottom or last}".lstrip()


def plain(text: str) -> str:
    """Text without the marks of LaTeX and Markdown that may stand in a number."""
    text = text.translate(_FULL_WIDTH)
    text = _SUPERSCRIPTS.sub(
        lambda found: "^" + unicodedata.normalize("NFKC", found[0]).replace("\u2212", "-"), text
    )
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    text = _VULGAR.sub(
        lambda sign: " " + unicodedata.normalize("NFKC", sign[0]).replace("\u2044", "/"), text
    )
    text = _LATEX_FRACTION.sub(_fraction, fractions_for_repeating(text))
    return _WRAPPER.sub(" ", text).strip()


def value(match: re.Match[str]) -> Fraction | None:
    """The number of a match of `NUMBER`; None for a division by zero or two signs."""
    if match["sign"] and match["minus"]:
        return None
    number = Fraction(_point(match["whole"]))
    part = re.sub("and|,", "", match["part"] or "")
    if part:
        top, bottom = part.replace(" ", "").split("/")
        divisor = Fraction(bottom)
        if divisor == 0:
            return None
        number = number + Fraction(top) / divisor if top else number / divisor
    number *= Fraction(10) ** int(match["exponent"] or match["power"] or 0)
    number *= _MULTIPLES.get((match["multiple"] or "").strip().lower(), 1)
    return -number if "-" in match["sign"] + match["minus"] else number


def _point(digits: str) -> str:
    """Digits with a point for the decimals and without thousands separators."""
    european = re.fullmatch(r"(\d{1,3}(?:\.\d{3})+)(?:,(\d{1,2}))?", digits)
    if european and (european[2] or digits.count(".") > 1):
        return f"{european[1].replace('.', '')}.{european[2] or 0}"
    return re.sub("[, '’]", "", digits)


def with_decimal_point(text: str) -> str | None:
    """Text of a language with a decimal comma in English spelling; None where it may mean either.

    `18,5` is `18.5` and `1.234,5` is `1234.5`, but `1.234` and `1,234` may be one or a thousand.
    """
    if re.search(r"(?<![\d.,])\d{1,3}[.,]\d{3}(?![\d.,]*\d)", text):
        return None
    return re.sub(r"(?<![\d.,])(\d+),(\d+)(?![.,]?\d)", r"\1.\2", text)


def exact(text: str) -> Fraction | None:
    r"""The number that a whole text is, as in `-1,234.5`, `\frac{1}{2}` or `$5`; else None."""
    match = NUMBER.fullmatch(plain(text).removesuffix("%").rstrip())
    return value(match) if match and not match["multiple"] else None
