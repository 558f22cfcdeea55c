r"""Split an answer into the passages that may hold code: fenced blocks and the text around them.

Add like this:              Passage("Add like this:", fenced=False)
```python
def add(a, b):       ->     Passage("def add(a, b):\n    return a + b", fenced=True)
    return a + b
```
Done.                       Passage("Done.", fenced=False)
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Not in quotes: a program may itself look for such a tag.
REASONING_ENDS = re.compile(
    r"(?<![\"'`])(?:</(?:think|thinking|thoughts?|reasoning|scratchpad)>|\[/THINK\]|◁/think▷"
    r"|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>)(?![\"'`])",
    re.IGNORECASE,
)
_TURN_ENDS = re.compile(
    r"<\|(?:endoftext|end_of_text|end|im_end|im_start|eot_id|eom_id|return|user|file_separator)\|>"
    r"|</s>|<file_sep>|<(?:end|start)_of_turn>|<[|｜]end▁of▁sentence[|｜]>|\[/?INST\]|\[DONE\]"
    r"|^#{2,} ?(?:Instruction|Response|Input|Question|Problem|Task)\b.*$",
    re.MULTILINE | re.IGNORECASE,
)
_TAGS = re.compile(
    r"</?(?:pre|code|python|answer|solution|response|output)\b[^<>\n]*>"
    r"|\[/?(?:PYTHON|CODE|ANSWER|SOLUTION|RESPONSE|BEGIN|END|DONE)\]"
    r"|\\(?:begin|end)\{\w+\}(?:\[[^\]\n]*\])?",
    re.IGNORECASE,
)
_FENCE = re.compile(r"([ \t>]*(?:(?:[-*+]|\d+[.)])[ \t]+)?)(`{3,}|~{3,})[ \t]*([^`]*?)[ \t]*$")
_LANGUAGE = re.compile(r"\{?\.?[a-z][\w+#.-]*\}?(?:[ \t{].*)?$", re.IGNORECASE)
_FENCE_AFTER_TEXT = re.compile(r"^([^`\n]*[^\s`\"'][ \t]*)(`{3,}[\w+-]*)[ \t]*$", re.MULTILINE)
_ONE_LINE_BLOCK = re.compile(
    r"^[ \t]*```(?:python\d?|py)?[ \t]*([^`\s][^`\n]*)```[ \t]*$", re.MULTILINE | re.IGNORECASE
)
# Code of any language.
_IS_CODE = re.compile(
    r"@|(?:async|def|class)\b|(?:if|elif|for|while|with|match|case|except)\b.*:|(?:try|else) *:"
    r"|[a-z][^`]*\w\(|.*\bdef +\w|.*[{(\[,=;\\}]$"
)


@dataclass(frozen=True)
class Passage:
    """A fenced block of an answer, or the text between two blocks."""

    text: str
    fenced: bool
    closed: bool = True
    """False for a block without a closing fence: it may be truncated."""


def readings(answer: str) -> Iterator[list[Passage]]:
    """Yield the passages of an answer under up to four readings, the most likely first.

    Reasoning before the answer is dropped in all of them.

    1. The answer ends at the first token that ends a turn or a document.
    2. Such tokens are part of the code, as in a string.
    3. Such tokens, and tags such as `<code>` or `[PYTHON]`, are line breaks.
    4. Fences are part of the code, as in a docstring.
    """
    text = re.sub(r"\r\n?", "\n", answer.removeprefix("\ufeff"))
    # Models that were shown tabs answer with tabs; prompts and tests are indented by spaces.
    text = re.sub(r"^[ \t]+", lambda margin: margin[0].replace("\t", "    "), text, flags=re.M)
    *_, text = REASONING_ENDS.split(text)
    first_turn = text
    for end in _TURN_ENDS.finditer(text):
        if text[: end.start()].strip():
            first_turn = text[: end.start()]
            break
    likeliest = _passages(first_turn)
    yield likeliest
    if _TURN_ENDS.search(text):
        yield _passages(text)
    untagged = _TAGS.sub("\n", _TURN_ENDS.sub("\n", text))
    if untagged != text:
        yield _passages(untagged)
    if any(passage.fenced for passage in likeliest):
        yield [Passage(first_turn, fenced=False)]


def indented_groups(text: str) -> Iterator[str]:
    """Yield the groups of indented lines that follow a line of prose."""
    group: list[str] = []
    line_before = ""
    for line in [*text.split("\n"), "."]:
        if not line.strip() or line.startswith(" "):
            group.append(line)
        else:
            if "".join(group).strip() and not _IS_CODE.match(line_before):
                yield "\n".join(group)
            group, line_before = [], line


def _passages(text: str) -> list[Passage]:
    text = _ONE_LINE_BLOCK.sub(r"```\n\1\n```", _FENCE_AFTER_TEXT.sub(_on_a_new_line, text))
    passages: list[Passage] = []
    lines: list[str] = []
    opening: re.Match[str] | None = None
    for line in [*text.split("\n"), None]:
        fence = None if line is None else _FENCE.match(line)
        if line is not None and not (fence and _delimits(fence, opening)):
            lines.append(line)
            continue
        margin = len(opening[1]) if opening else 0
        passages.append(
            Passage(
                _without_margin(lines, margin),
                fenced=opening is not None,
                closed=opening is None or line is not None,
            )
        )
        lines = []
        opening = fence if opening is None or (fence and fence[3]) else None
    return [passage for passage in passages if passage.text.strip()]


def _on_a_new_line(match: re.Match[str]) -> str:
    return match[0] if _FENCE.match(match[0]) else f"{match[1]}\n{match[2]}"


def _delimits(fence: re.Match[str], opening: re.Match[str] | None) -> bool:
    """Return whether a fence opens or closes a block and is not part of the code in one."""
    # Fences with a deeper margin are examples in docstrings.
    if opening and len(fence[1]) > len(opening[1]) + 3:
        return False
    if fence[3]:
        return _LANGUAGE.match(fence[3]) is not None
    return not opening or (fence[2][0] == opening[2][0] and len(fence[2]) >= len(opening[2]))


def _without_margin(lines: list[str], margin: int) -> str:
    """Join the lines of a block, without the margin of its fence if all lines have it."""
    if all(not line[:margin].strip(" >") for line in lines):
        lines = [line[margin:] for line in lines]
    return "\n".join(lines)
