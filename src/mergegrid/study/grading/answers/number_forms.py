r"""Read numbers as people and models write them, exactly, as fractions.

-5  –5  −5  $5  -$5                           signs (hyphen, dash, minus) and currency
1,234  1 234  1'234  1.234.567  12,34,567     thousands separators
0.5  .5  0.\overline{3}                       decimals, repeating decimals
5/2  \frac{5}{2}  2 1/2  2½                   fractions
1e3  1.5 x 10^3  3 million  5k                powers of ten
"""

import re
import unicodedata
from fractions import Fraction

_MULTIPLES = {"k": 10**3, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
# 1,234.5  1 234  1'234 | 12,34,567 | 1.234,56  1.234.567 | 12.5 | .5
_DIGITS = (
    r"(?:(?:[1-9]\d{0,2}(?:(?:,\d{3}){1,19}|(?: \d{3}){1,19}|(?:['’]\d{3}){1,19})"
    r"|[1-9]\d?(?:,\d{2}){1,9},\d{3})(?!\d)(?:\.\d{1,60})?"
    r"|[1-9]\d{0,2}(?:(?:\.\d{3}){1,19},\d{1,2}|(?:\.\d{3}){2,19})(?![\d,.]\d|\d)"
    r"|\d{1,60}(?:\.\d{1,60})?|\.\d{1,60})"
)
# " 1/2" of "2 1/2" and "2 and 1/2"; "/2" of "5/2"
_FRACTION = r"(?:[ ](?:and[ ])?\d{1,20}/\d{1,20}|[ ]?/[ ]?[-+]?" + _DIGITS + ")"
CURRENCY = "$€£¥₹"
NUMBER = re.compile(
    rf"(?<![\w.,:/])(?P<sign>[-+]?)[{CURRENCY}]?(?<![\w.,:/])[ ]?(?P<minus>-?)"
    rf"(?P<whole>{_DIGITS})(?P<part>{_FRACTION})?"
    r"(?:[eE](?P<exponent>[-+]?\d{1,2})|[ ]?[x×*][ ]?10[ ]?\^[ ]?(?P<power>[-+]?\d{1,2})(?!\d))?"
    r"(?!\d|[.,:/]\d)(?P<multiple>[kK]\b|[ ]?(?:hundred|thousand|million|billion)\b)?"
)
"""A number with its sign and currency, such as `-$1,234.50` or `3 million`; see `value`."""

_ARGUMENT = r"\s*(?:\{\s*([^{}]*?)\s*\}|(\d))"
# "2\frac{1}{2}", "\dfrac12"
_LATEX_FRACTION = re.compile(rf"(\d?)\s*\\[dtc]?frac{_ARGUMENT}{_ARGUMENT}")
# "0.1\overline{6}", "0.(3)", "0.333..."
_REPEATING = re.compile(
    r"(?<![\d.,])(\d*)\.(\d*?)(?:\\(?:overline|bar|dot|overset\{\.\})\s*(?:\{\s*(\d+)\s*\}|(\d))"
    r"|(?<=\.)\((\d+)\)|(\d)\6{2,}\s*(?:\.\.\.+|…|\\[lc]?dots(?![A-Za-z])))(?![\d.\\])"
)
# "0.\dot{1}2\dot{3}"
_TWO_DOTS = re.compile(r"\\dot\s*(?:\{(\d)\}|(\d))(\d*)\\dot\s*(?:\{(\d)\}|(\d))")
# A unit of length, which may have a power: "cm", "\text{ ft"
_LENGTHS = (
    r"(?:\\(?:text|mathrm|mbox)\{\s*)?(?:[kcmd]?m|ft|in|mi|yd|units?|inches|feet|met(?:er|re)s?)"
)
_MARKS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[\u2212\u2010\u2011\ufe63]", "-"),
        # A dash before a digit is a sign, "–5"; between numbers it is a range, "3–5".
        ("(?:(?<=[\\s($=:{*])|^)[\u2012\u2013](?=\\\\?[$€£¥₹]?[\\d.])", "-"),
        # A long dash after a word is punctuation: "The answer is—5".
        ("(?:(?<=[($=:{*])|(?<=[=:(]\\s)|^\\s*)[\u2014\u2015](?=\\\\?[$€£¥₹]?[\\d.])", "-"),
        (r"\\!\s*", ""),  # 12\!345 -> 12345
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))", "°"),  # 90^\circ -> 90°
        # 10^3 -> 1e3, but not in 5 x 10^3, which NUMBER reads, or in 10^3!
        (r"(?<![\w.,)^×*])(?<![\w)×*]\s)10\s?\^\s?\{?(-?\d{1,2})\}?(?!\s?[\d.^!])", r"1e\1"),
        (r"\{,\}", ","),  # 1{,}234 -> 1,234
        # 1\,234 -> 1 234
        (r"\\[,;: ]|~|[\u00a0\u2009\u202f]", " "),
        # <<48/2=24>>24 -> 24
        (r"\\(?:left|right|displaystyle)(?![A-Za-z])|__|`|<<[^<>]*>>", ""),
        # **18** -> 18; 2**4 is a power.
        (r"(?<![\w)])\*\*|\*\*(?![\w(])", ""),
        # *5* -> 5; 2 * 5 is a product.
        (r"(?<![\w*)])(?<![\w)]\s)\*(\S|\S[^*\n]*\S)\*(?![\w*])", r"\1"),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "×"),  # 3 \times 4 -> 3 × 4
        (r"\\div(?![A-Za-z])", "÷"),
        (r"\\([$%])", r"\1"),  # \$5 -> $5
        (r"\$(?=-?\$)", ""),  # $$5 -> $5
        (r"\\[\[\]()]", " "),  # \(5\) -> 5
        (r"(?<=\d) and a half\b", " 1/2"),  # 2 and a half -> 2 1/2
        # 25 cm^2 -> 25 cm
        (rf"(?<=\d)(\s*{_LENGTHS})(?:\}}?\s*\^\s*\{{?[23]\}}?)(?![\w^])", r"\1"),
    )
]
# The command of "\text{cm}" and all braces
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up)?|math(?:rm|bf|it|sf|tt|normal)|mbox|operatorname|boldsymbol)"
    r"(?![A-Za-z])|[{}]"
)
# ½
_VULGAR = re.compile("[¼-¾⅐-⅞]")
# 10⁻³
_SUPERSCRIPTS = re.compile("[⁻⁰¹²³⁴-⁹]+")
# "５" -> "5"
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def fractions_for_repeating(text: str) -> str:
    r"""Replace repeating decimals by fractions: `0.1\overline{6}` by `\frac{15}{90}`."""
    text = _TWO_DOTS.sub(r"\\overline{\1\2\3\4\5}", text)
    return _REPEATING.sub(_repeating, text)


def _repeating(match: re.Match[str]) -> str:
    whole, before = match[1], match[2]
    period = match[3] or match[4] or match[5] or match[6]
    top = int(whole + before + period) - int(whole + before or "0")
    return rf"\frac{{{top}}}{{{(10 ** len(period) - 1) * 10 ** len(before)}}}"


def _fraction(match: re.Match[str]) -> str:
    before, top, digit, bottom, last = match.groups()
    return f"{before} {top or digit}/{bottom or last}".lstrip()


def plain(text: str) -> str:
    r"""Remove the markup of LaTeX and Markdown from numbers: `**\$1{,}234**` becomes `$1,234`."""
    text = text.translate(_FULL_WIDTH)
    text = _SUPERSCRIPTS.sub(
        lambda match: "^" + unicodedata.normalize("NFKC", match[0]).replace("\u2212", "-"), text
    )
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    text = _VULGAR.sub(
        lambda match: " " + unicodedata.normalize("NFKC", match[0]).replace("\u2044", "/"), text
    )
    text = _LATEX_FRACTION.sub(_fraction, fractions_for_repeating(text))
    return _WRAPPER.sub(" ", text).strip()


def value(match: re.Match[str]) -> Fraction | None:
    """Return the number of a match of `NUMBER`; None for a division by zero or two signs."""
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
    """Write digits with a decimal point and without separators: `1.234,5` as `1234.5`."""
    european = re.fullmatch(r"(\d{1,3}(?:\.\d{3})+)(?:,(\d{1,2}))?", digits)
    if european and (european[2] or digits.count(".") > 1):
        return f"{european[1].replace('.', '')}.{european[2] or 0}"
    return re.sub("[, '’]", "", digits)


def with_decimal_point(text: str) -> str | None:
    """Replace the decimal commas of a text by points; None if that is ambiguous.

    `18,5` is 18.5 and `1.234,5` is 1234.5, but `1.234` and `1,234` may be about one or a thousand.
    """
    if re.search(r"(?<![\d.,])\d{1,3}[.,]\d{3}(?![\d.,]*\d)", text):
        return None
    return re.sub(r"(?<![\d.,])(\d+),(\d+)(?![.,]?\d)", r"\1.\2", text)


def exact(text: str) -> Fraction | None:
    r"""Return the number that a whole text is, as `-1,234.5`, `\frac{1}{2}` or `$5`; else None."""
    match = NUMBER.fullmatch(plain(text).removesuffix("%").rstrip())
    return value(match) if match and not match["multiple"] else None
