"""The answers of `findings.md` in short, for the end of a run: without intervals and tests."""

import re
import textwrap
from pathlib import Path

#: Headings of the answers. What cannot be said, what to do next and the costs stay in the file.
ANSWERS = ("Which recipe is best?", "Do sparsifiers help?", "How many deltas can be dropped?")
#: Sentences that are shown.
_MOST = 12
_WIDTH = 98
#: The interval, test and table behind a sentence.
_EVIDENCE = re.compile(r" \([^()]*\btable `[^()]*\)")


def brief_findings(path: Path) -> list[str]:
    """Lines with the answers of a study; none where the file is missing."""
    if not path.is_file():
        return []
    lines: list[str] = []
    sentences = 0
    heading, family = "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(#+) (.*)", line):
            heading = match[2]
            family = heading if match[1] == "##" else family
        elif heading in ANSWERS and line.startswith("- "):
            if sentences < _MOST:
                if f"{family}:" not in lines:
                    lines.append(f"{family}:")
                lines += _wrapped(_EVIDENCE.sub("", line).replace("**", "").replace("`", ""))
            sentences += 1
    if sentences > _MOST:
        lines.append(f"{sentences - _MOST} more in {path}")
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")
