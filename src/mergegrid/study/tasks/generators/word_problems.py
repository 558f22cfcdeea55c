"""Arithmetic word problems of one or two steps, in the columns of GSM8K.

A record:

    {"instruction": "On Monday, Tom has 7 apples and gets 5 more from Amy. How many apples does
                     Tom have?",
     "output": "7 + 5 = 12. The answer is: 12",
     "question": the instruction,
     "answer": "7 + 5 = <<7+5=12>>12\\n#### 12"}
"""

from typing import Any

from mergegrid.study.tasks.generators.numbering import Template, draw

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_PEOPLE = (
    "Adam Alice Amy Anna Ben Bob Carl Carol David Diana Emily Emma Eric Frank George Grace "
    "Helen Henry Jack James Jane John Julia Kate Laura Leo Lily Lucy Maria Mark Mary Max Mike "
    "Nancy Nick Nina Oliver Paul Peter Rachel Robert Rose Sam Sarah Simon Sofia Tom Victor"
)
_GOODS = (
    "apples balls books bottles boxes buttons cakes candles cards chairs coins cookies cups "
    "eggs flowers hats keys lamps leaves lemons letters nuts oranges pears pencils pens plates "
    "shells stamps stones tickets toys"
)
_NAMES, _THINGS = _PEOPLE.split(), _GOODS.split()
_SMALL, _LARGE = range(2, 10), range(2, 20)


def generate(count: int, seed: int) -> list[dict[str, Any]]:
    """Generate records with `instruction` and `output`, and with `question` and `answer`."""
    return draw(_TEMPLATES, count, seed)


def _record(question: str, *steps: tuple[str, int]) -> dict[str, Any]:
    """Make a record from steps, sums with their results; the last result is the answer."""
    answer = steps[-1][1]
    worked = [f"{text} = <<{text.replace(' ', '')}={result}>>{result}" for text, result in steps]
    output = " ".join(f"{text} = {result}." for text, result in steps)
    return {
        "instruction": question,
        "output": f"{output} The answer is: {answer}",
        "question": question,
        "answer": "\n".join([*worked, f"#### {answer}"]),
    }


def _more(day: str, name: str, other: str, things: str, had: int, got: int) -> dict[str, Any]:
    return _record(
        f"On {day}, {name} has {had} {things} and gets {got} more from {other}. "
        f"How many {things} does {name} have?",
        (f"{had} + {got}", had + got),
    )


def _fewer(day: str, name: str, other: str, things: str, kept: int, given: int) -> dict[str, Any]:
    had = kept + given
    return _record(
        f"On {day}, {name} has {had} {things} and gives {given} to {other}. "
        f"How many {things} does {name} have?",
        (f"{had} - {given}", kept),
    )


def _times(day: str, name: str, other: str, things: str, bags: int, size: int) -> dict[str, Any]:
    return _record(
        f"On {day}, {name} buys {bags} bags with {size} {things} each for {other}. "
        f"How many {things} are that?",
        (f"{bags} * {size}", bags * size),
    )


def _both(
    day: str, name: str, other: str, things: str, kept: int, given: int, got: int
) -> dict[str, Any]:
    had = kept + given
    return _record(
        f"On {day}, {name} has {had} {things}, gives {given} to {other} and then finds {got}. "
        f"How many {things} does {name} have?",
        (f"{had} - {given}", kept),
        (f"{kept} + {got}", kept + got),
    )


_WHO = (_DAYS, _NAMES, _NAMES, _THINGS)
_TEMPLATES = [
    Template(_more, (*_WHO, _LARGE, _LARGE)),
    Template(_fewer, (*_WHO, _LARGE, _LARGE)),
    Template(_times, (*_WHO, _SMALL, _SMALL)),
    Template(_both, (*_WHO, _SMALL, _SMALL, _SMALL)),
]
