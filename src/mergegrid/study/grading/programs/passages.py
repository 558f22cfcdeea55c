"""The parts of an answer that may hold code: fenced blocks, and the text around them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Not in quotes: a program may look for such a tag itself.
_REASONING_ENDS = re.compile(
    r"(?<![\"'`])(?:</(?:think|thinking|thoughts?|reasoning|scratchpad)>|\[/THINK\]|◁/think▷"
    r"|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>)(?![\"'`])",
    re.IGNORECASE,
)
_ENDS = re.compile(
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
_BEHIND_TEXT = re.compile(r"^([^`\n]*[^\s`\"'][ \t]*)(`{3,}[\w+-]*)[ \t]*$", re.MULTILINE)
_IN_ONE_LINE = re.compile(
    r"^[ \t]*```(?:python\d?|py)?[ \t]*([^`\s][^`\n]*)```[ \t]*$", re.MULTILINE | re.IGNORECASE
)
# In this language or another one.
_IS_CODE = re.compile(
    r"@|(?:async|def|class)\b|(?:if|elif|for|while|with|match|case|except)\b.*:|(?:try|else) *:"
    r"|[a-z][^`]*\w\(|.*\bdef +\w|.*[{(\[,=;\\}]$"
)


@dataclass(frozen=True)
class Passage:
    """A fenced block of an answer, or the text between two of them."""

    text: str
    fenced: bool
    closed: bool = True
    """False of a block whose closing fence is missing: it may have been cut off."""


def readings(answer: str) -> Iterator[list[Passage]]:
    """The passages of an answer, in up to four ways to read it, the likeliest first.

    Reasoning before an answer is left out. The first reading ends where another turn or document
    begins. Code may hold such a token in a string, so the second reading ignores them. In the
    third, they and tags such as `<code>` or `[PYTHON]` stand for line breaks. The last takes fences
    for a part of the code, since docstrings hold some.
    """
    text = re.sub(r"\r\n?", "\n", answer.removeprefix("\ufeff"))
    # Models that were shown tabs answer with tabs; prompts and tests have spaces.
    text = re.sub(r"^[ \t]+", lambda margin: margin[0].replace("\t", "    "), text, flags=re.M)
    *_, text = _REASONING_ENDS.split(text)
    first = text
    for end in _ENDS.finditer(text):
        if text[: end.start()].strip():
            first = text[: end.start()]
            break
    likeliest = _passages(first)
    yield likeliest
    if _ENDS.search(text):
        yield _passages(text)
    bare = _TAGS.sub("\n", _ENDS.sub("\n", text))
    if bare != text:
        yield _passages(bare)
    if any(each.fenced for each in likeliest):
        yield [Passage(first, fenced=False)]


def indented(text: str) -> Iterator[str]:
    """The groups of indented lines in a text that follow a line of prose."""
    group: list[str] = []
    before = ""
    for line in [*text.split("\n"), "."]:
        if not line.strip() or line.startswith(" "):
            group.append(line)
        else:
            if "".join(group).strip() and not _IS_CODE.match(before):
                yield "\n".join(group)
            group, before = [], line


def _passages(text: str) -> list[Passage]:
    text = _IN_ONE_LINE.sub(r"```\n\1\n```", _BEHIND_TEXT.sub(_on_its_own_line, text))
    found: list[Passage] = []
    lines: list[str] = []
    opening: re.Match[str] | None = None
    for line in [*text.split("\n"), None]:
        fence = None if line is None else _FENCE.match(line)
        if line is not None and not (fence and _counts(fence, opening)):
            lines.append(line)
            continue
        margin = len(opening[1]) if opening else 0
        found.append(
            Passage(
                _without_margin(lines, margin),
                fenced=opening is not None,
                closed=opening is None or line is not None,
            )
        )
        lines = []
        opening = fence if opening is None or (fence and fence[3]) else None
    return [passage for passage in found if passage.text.strip()]


def _on_its_own_line(found: re.Match[str]) -> str:
    return found[0] if _FENCE.match(found[0]) else f"{found[1]}\n{found[2]}"


def _counts(fence: re.Match[str], opening: re.Match[str] | None) -> bool:
    """Whether a fence opens or closes a block, and is not part of the code in one."""
    # Deeper ones are examples in docstrings.
    if opening and len(fence[1]) > len(opening[1]) + 3:
        return False
    if fence[3]:
        return _LANGUAGE.match(fence[3]) is not None
    return not opening or (fence[2][0] == opening[2][0] and len(fence[2]) >= len(opening[2]))


def _without_margin(lines: list[str], margin: int) -> str:
    """A block without the margin of its fence, where all lines have it."""
    if all(not line[:margin].strip(" >") for line in lines):
        lines = [line[margin:] for line in lines]
    return "\n".join(lines)
