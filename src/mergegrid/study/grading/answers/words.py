"""Classify the words and letters around a number: harmless, or changing what it means.

"at least 5", "not 5", "3 or 4"    uncertain
"half of 36", "3 dozen", "$5 M"    another number
"5x", "5π"                         a product with a variable
"5 m", "5 eggs", "the 5th"         harmless
"""

import re

_UNCERTAIN = re.compile(
    # < 5, 3 \pm 1, \le 5
    r"[<>≤≥≠±]|!=|\+/-|\+-|--|\\(?:pm|mp|leq?|geq?|neq?|lt|gt)(?![A-Za-z])"
    r"|\b(?:not|never|no|neither|nor|either|or|between|if|unless|otherwise|except|cannot)\b"
    r"|n['’]t\b"  # isn't
    r"|\b(?:at\s+(?:least|most)|up\s+to)\b"
    r"|\b(?:more|less|fewer|greater|higher|lower|larger|smaller|bigger)\s+than\b"
    r"|\b(?:below|under|above)\s+zero\b",
    re.IGNORECASE,
)
# "half", "dozen", "minus", "squared", "five", also in some other languages
_CHANGES = re.compile(
    r"\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?"
    r"|tenths?|hundredths?|thousandths?|twice|thrice|double|triple|dozens?|hundreds?|thousands?"
    r"|millions?|billions?|trillions?|plus|minus|negative|squared|cubed|factorial|root|sqrt|log"
    r"|ln|sin|cos|tan|power|modulo|mod|opposite|reciprocal|absolute|inverse|negation|divided"
    r"|multiplied|lakhs?|crores?|mil|mille|mill(?:ó|o)n(?:es)?|millionen|mrd|mio|milli?ards?"
    r"|milliarden|tausend|тыс\w*|млн|млрд|миллион\w*|миллиард\w*"
    r"|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
    r"|mln|mlrd|bln|trn|tens|grand(?!\s+total)|recurring|repeating|repeated|periodic)\b"
    r"|[万萬億亿千百兆半만억천백반]",
    re.IGNORECASE,
)
# "$5 M" is five million, "5 m" is five meters.
_MILLIONS = re.compile(r"\sMM?(?!\w)")
# π, θ, 𝑥, ₓ, but neither a unit, "μm", nor a word of Greek.
_GREEK = "[\u0370-\u03ff]"
_VARIABLE = re.compile(
    rf"(?<!{_GREEK})(?!\u03bc(?:m|g|s|l|L|F|A|V)(?!\w)){_GREEK}{{1,3}}(?!{_GREEK})"
    r"|[\u2071\u207f\u2090-\u209c\u2100-\u214f\U0001d400-\U0001d7ff]"
)
# The "x" of "3 x 4"
_TIMES = re.compile(r"(?<=[\w)\s%])[xX](?=\s*[\d($€£¥₹.])")
# The "'s" of "it's"
_CONTRACTION = re.compile(r"(?<=[A-Za-z])['’][A-Za-z]{1,2}\b")
_WORD = re.compile(r"[A-Za-z]+")
# x, AB, \theta, x_1, f(3)
_NAME = re.compile(
    r"(?:[^\W\d_]|[A-Z]{2,3}|\\[A-Za-z]+)['’]?"
    r"(?:\s*_\s*\w+)?(?:\s*\(\s*-?[\w.]+\s*\))?"
)
# "total cost"
_PHRASE = re.compile(r"[^\W\d_](?:[^\W\d_]|['’\s:-])*")
_LETTER_UNITS = frozenset("mgshlwvjcf")
_UNITS = """
    st nd rd th am pm km cm mm nm dm kg mg lb oz ft mi yd hr ml cl dl kw kj hz gb mb tb kb pt qt
    mph kmh kph rpm lbs hrs mins secs min sec cents usd eur
"""
_ATTACHED = _LETTER_UNITS | frozenset(_UNITS.split())
_SHORT_WORDS = """
    a an as at be by do he i in is it me my of on to up us we so ea pc tv sq cu
    de la el le en al un
"""
_SHORT = frozenset(_UNITS.split() + _SHORT_WORDS.split())


def is_uncertain(text: str) -> bool:
    """Return whether a sentence compares, denies, or gives alternatives or a condition."""
    return _UNCERTAIN.search(text) is not None


def changes_a_number(text: str) -> bool:
    """Return whether words change the number beside them, as in `half of 36` or `3 dozen`."""
    return _CHANGES.search(text) is not None or _MILLIONS.search(text) is not None


def has_a_variable(text: str) -> bool:
    """Return whether a text holds a Greek letter or another symbol for a variable, as in `5π`."""
    return _VARIABLE.search(text) is not None


def is_name(text: str) -> bool:
    """Return whether a text is a bare name, as `x`, `f(3)`, `x_1`, `AB` or `total cost`."""
    if _NAME.fullmatch(text):
        return True
    words = _PHRASE.fullmatch(text) and not single_letters(text)
    return bool(words) and re.search(r"[^\W\d_]{3}", text) is not None


def single_letters(text: str, *, units: bool = True) -> set[str]:
    """Return the words of one or two letters that may be variables: `{"x"}` for `5x of it`.

    An `x` before a number is a multiplication sign. A word of three or more letters counts only if
    it touches a number, as in `5abc`.

    Args:
        text: The text.
        units: Include single letters that are units, such as `m`.
    """
    text = _TIMES.sub(" ", _CONTRACTION.sub("", text))
    letters = set()
    for match in _WORD.finditer(text):
        word, attached = match[0].lower(), text[: match.start()][-1:].isdigit()
        if word in _SHORT and not (attached and word not in _ATTACHED):
            continue
        if len(word) == 1 and word in _LETTER_UNITS and not units:
            continue
        if len(word) < 3 or (attached and word not in _ATTACHED):
            letters.add(word)
    return letters - ({"k"} if re.search(r"\d[kK]\b", text) else set())


def unit_may_follow(word: str) -> bool:
    """Return whether letters that touch a number are a unit, as in `18cm`; `5x` is a product."""
    return not word.isascii() or not word or word.lower() in _ATTACHED
