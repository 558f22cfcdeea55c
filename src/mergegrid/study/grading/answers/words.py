"""Words and letters around a number: which are harmless, and which leave its meaning open."""

import re

_UNSURE = re.compile(
    r"[<>≤≥≠±]|!=|\+/-|\+-|--|\\(?:pm|mp|leq?|geq?|neq?|lt|gt)(?![A-Za-z])"
    r"|\b(?:not|never|no|neither|nor|either|or|between|if|unless|otherwise|except|cannot)\b"
    r"|n['’]t\b"
    r"|\b(?:at\s+(?:least|most)|up\s+to)\b"
    r"|\b(?:more|less|fewer|greater|higher|lower|larger|smaller|bigger)\s+than\b"
    r"|\b(?:below|under|above)\s+zero\b",
    re.IGNORECASE,
)
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
# $5M is five million, 5m five meters.
_MILLIONS = re.compile(r"\sMM?(?!\w)")
# Greek, and letters of mathematics, but not µm and words of Greek.
_GREEK = "[\u0370-\u03ff]"
_VARIABLE = re.compile(
    rf"(?<!{_GREEK})(?!\u03bc(?:m|g|s|l|L|F|A|V)(?!\w)){_GREEK}{{1,3}}(?!{_GREEK})"
    r"|[\u2071\u207f\u2090-\u209c\u2100-\u214f\U0001d400-\U0001d7ff]"
)
_TIMES = re.compile(r"(?<=[\w)\s%])[xX](?=\s*[\d($€£¥₹.])")
_CONTRACTION = re.compile(r"(?<=[A-Za-z])['’][A-Za-z]{1,2}\b")
_WORD = re.compile(r"[A-Za-z]+")
_NAME = re.compile(
    r"(?:[^\W\d_]|[A-Z]{2,3}|\\[A-Za-z]+)['’]?"
    r"(?:\s*_\s*\w+)?(?:\s*\(\s*-?[\w.]+\s*\))?"
)
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


def is_unsure(text: str) -> bool:
    """Whether a sentence compares, denies, or gives a choice or a condition."""
    return _UNSURE.search(text) is not None


def changes_a_number(text: str) -> bool:
    """Whether words make another number of one beside them, as in `half of 36` or `3 dozen`."""
    return _CHANGES.search(text) is not None or _MILLIONS.search(text) is not None


def has_a_variable(text: str) -> bool:
    """Whether a text holds a Greek letter or another sign of mathematics, as in `5π`."""
    return _VARIABLE.search(text) is not None


def is_name(text: str) -> bool:
    """Whether a text is a bare name, as `x`, `f(3)`, `x_1`, `AB` or `total cost`."""
    if _NAME.fullmatch(text):
        return True
    words = _PHRASE.fullmatch(text) and not single_letters(text)
    return bool(words) and re.search(r"[^\W\d_]{3}", text) is not None


def single_letters(text: str, *, units: bool = True) -> set[str]:
    """Short words that may be variables, those of one letter that are units among them or not.

    An `x` in front of a number is a multiplication sign, and words of three letters are words, if
    no digit stands before them.
    """
    text = _TIMES.sub(" ", _CONTRACTION.sub("", text))
    found = set()
    for match in _WORD.finditer(text):
        word, attached = match[0].lower(), text[: match.start()][-1:].isdigit()
        if word in _SHORT and not (attached and word not in _ATTACHED):
            continue
        if len(word) == 1 and word in _LETTER_UNITS and not units:
            continue
        if len(word) < 3 or (attached and word not in _ATTACHED):
            found.add(word)
    return found - ({"k"} if re.search(r"\d[kK]\b", text) else set())


def unit_may_follow(word: str) -> bool:
    """Whether letters that touch a number, as in `18cm`, are a unit; `5x` is a product."""
    return not word.isascii() or not word or word.lower() in _ATTACHED
