r"""What is said of an answer, and where in a text the answer stands.

An answer is looked for in the content of the last `\boxed{}`, then after the last "answer is"
(any case, with or without a colon), then after the last "####".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

PAPER_CUE = "The answer is: "
_CUES = (re.compile(r"answer\s+is\b\s*:?", re.IGNORECASE), re.compile(r"####"))
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]*")
_UNBRACED = re.compile(r"(?:(?!\\[\])])[^$\n])*")


@dataclass(frozen=True)
class Judgement:
    """An answer under two rules; None means that nothing could be read."""

    extracted: str | None
    """What the robust rule read."""
    correct: bool
    """Whether it equals the reference."""
    paper_extracted: str | None
    """What the paper's rule read."""
    paper_correct: bool
    """Whether that equals the reference under the paper's rule."""


def boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` or `\fbox{...}`, or of `\boxed 5` up to the end of maths.

    None where there is no box, or where the last one is empty or never closed.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        content = _UNBRACED.match(text, start)
        return (content[0].strip().removesuffix(".").rstrip() or None) if content else None
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start + 1 : start + brace.start()].strip() or None
    return None


def segments(output: str) -> Iterator[tuple[str, bool]]:
    """Parts of a text that may hold its answer, best first; True for one that ends by itself.

    The others run to the end of the text: only their beginning belongs to the answer.
    """
    content = boxed(output)
    if content is not None:
        yield content, True
    for cue in _CUES:
        found = list(cue.finditer(output))
        if found:
            yield output[found[-1].end() :], False


def paper_segment(output: str) -> str | None:
    """Text after the last literal cue of the paper, None where it is missing."""
    _, cue, rest = output.rpartition(PAPER_CUE)
    return rest if cue else None
