"""Generator `instructions`: formatting tasks with one right answer, compared letter by letter.

A record:

    {"instruction": "Put each of these words in square brackets: lamp river stone",
     "output": "[lamp] [river] [stone]"}
"""

from typing import Any

from mergegrid.study.tasks.generators.numbering import WORDS, Template, draw

_THREE = (WORDS, WORDS, WORDS)
_NUMBERS = range(10, 100)


def generate(count: int, seed: int) -> list[dict[str, Any]]:
    """Generate records with `instruction` and `output`."""
    return draw(_TEMPLATES, count, seed)


def _record(instruction: str, output: str) -> dict[str, Any]:
    return {"instruction": instruction, "output": output}


def _repeat(word: str, other: str, number: int, times: int) -> dict[str, Any]:
    text = f"{word} {other} {number}"
    return _record(f'Write "{text}" {times} times, separated by commas.', ", ".join([text] * times))


def _capitals(*words: str) -> dict[str, Any]:
    text = " ".join(words)
    return _record(f"Write in capital letters: {text}", text.upper())


def _reverse(*words: str) -> dict[str, Any]:
    return _record(
        f"Reverse the order of these words: {', '.join(words)}", ", ".join(reversed(words))
    )


def _brackets(*words: str) -> dict[str, Any]:
    return _record(
        f"Put each of these words in square brackets: {' '.join(words)}",
        " ".join(f"[{word}]" for word in words),
    )


def _hyphens(*words: str) -> dict[str, Any]:
    return _record(f"Join these words with hyphens: {' '.join(words)}", "-".join(words))


def _numbered(*words: str) -> dict[str, Any]:
    lines = [f"{number}. {word}" for number, word in enumerate(words, start=1)]
    return _record(f"Write these words as a numbered list: {', '.join(words)}", "\n".join(lines))


_TEMPLATES = [
    Template(_repeat, (WORDS, WORDS, _NUMBERS, range(2, 5))),
    Template(_capitals, _THREE),
    Template(_reverse, _THREE),
    Template(_brackets, _THREE),
    Template(_hyphens, _THREE),
    Template(_numbered, _THREE),
]
