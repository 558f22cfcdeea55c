r"""Locate the segments of a text that may hold its final answer.

    "So it is \boxed{5}."                        -> "5"
    "The answer is 5. I hope this helps."        -> "5. I hope this helps."
    "La respuesta es 18,5"                       -> "18,5", with a decimal comma
    "The answer is 5. Wait, that is wrong."      -> nothing

The answer follows the last marker of a text: a `\boxed{}`, a phrase such as "answer is" or "La
respuesta es" (`_CUES`), or "####" before a value. Ignored are reasoning (`<think>...</think>`),
everything after the end of the turn, and questions that the model invents and answers afterwards.

A text has no answer if its reasoning never ends, if the last phrase denies ("the answer is not
5"), if the model retracts its answer ("wait, ...") without giving another, or if the sentence after
the phrase concludes another number ("the answer is 9. So she makes 18").
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

PAPER_CUE = "The answer is: "

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]*")
_UNBRACED = re.compile(r"(?:(?!\\[\])])[^$\n])*")

# "answer to the question"
_TO = r"(?:\s+(?:to|for|of)\s[^.:\n]{1,80}?)?"
# "the answer is", "Final answer:"
_ENGLISH = re.compile(
    rf"\banswer{_TO}\s+(?:is|would\s+be|should\s+be|must\s+be|equals)\b\s*:?"
    rf"|\bfinal\s+answer{_TO}\W{{0,4}}[:=]",
    re.IGNORECASE,
)
# "La respuesta final es", "Antwort:"; these languages write a decimal comma.
_DECIMAL_COMMA = re.compile(
    r"\b(?:respuesta|réponse|antwort|ответ|resposta|risposta)"
    r"(?:\s+(?:final|finale|correcta|correcte|correta|corretta))?"
    r"\W{0,4}(?:\b(?:est?|ist|lautet|é|è)(?!\w)\s*:?|[:—–])",
    re.IGNORECASE,
)
# "答案是", "答え:"
_ASIAN = re.compile(r"(?:答案|答え|정답|답)(?:\s*(?:应该|應該)?(?:是|为|為|は|은|[:：=]))+")
# "#### 18", but not a Markdown heading: "#### Step 2: ...", "#### 2. Add"
_HASHES = re.compile(
    r"####(?!\s{0,9}(?:\d+[.)]\s+\S|(?!negative|minus)[^\W\d_]{2,}\b[\s:]{1,9}\S))", re.IGNORECASE
)
# "Answer: 5" on the last line; at the start of a solution ("Answer: Natalia sold 48/2 = 24 ...")
# it marks no result.
_LAST_LINE = re.compile(
    r"^[ \t*#_>-]*(?:the\s+|my\s+)?answer\W{0,4}[:=](?=[^\n]*\s*\Z)", re.IGNORECASE | re.MULTILINE
)
_CUES = (_ENGLISH, _DECIMAL_COMMA, _ASIAN, _HASHES, _LAST_LINE)

_REASONING = r"think(?:ing)?|reason(?:ing)?|thoughts?|scratchpad|analysis"
_REASONING_ENDS = re.compile(rf"</(?:{_REASONING})>", re.IGNORECASE)
_REASONING_STARTS = re.compile(rf"<(?:{_REASONING})>", re.IGNORECASE)
_TURN_ENDS = re.compile(
    r"(?:<\|(?:im_end|endoftext|end_of_text|eot_id|end)\|>"
    r"|</s>|<eos>|<end_of_turn>)"
)
# A question that the model invents: "### Problem 2:", "Below is an instruction"
_NEXT_QUESTION = re.compile(
    r"^[#* \t]*(?:(?:new |next )?(?:question|q|problem|instruction|exercise|user|human)"
    r"\s*\d*\s*[*]*[:.)]|below is an instruction)",
    re.IGNORECASE | re.MULTILINE,
)
# "The answer is" ... "not 5", "unknown"
_DENIED = re.compile(
    r"\W*(?:not|never|neither|no\s+longer|wrong|incorrect|unknown|unclear)\b", re.IGNORECASE
)
# "Wait, ...", "that is wrong", "it should be 7"
_RETRACTED = re.compile(
    r"\bwait\s*[,.!:;\u2013\u2014-]|\b(?:oops|correction|scratch that|hold on|sorry)\b"
    r"|\bmy mistake\b|\bmade an? (?:mistake|error)\b"
    r"|\blet me (?:re|try again|correct|fix|check again|double)"
    r"|\b(?:that|this|it)(?:'s|’s| is| was) (?:wrong|not (?:right|correct)|incorrect)\b"
    r"|\bshould (?:actually |really |instead )?(?:be|have been)\W*\d"
    r"|\bactually\b[^\n]*\d",
    re.IGNORECASE,
)
# "The answer is" ... "5", "$5", "x = 5", "negative 5"
_VALUE_FIRST = re.compile(
    r"[\s:*({\[+\u2010-\u2015\u2212-]*(?:[$€£¥₹\\\d]|\.\d|[A-Za-z]\s*=|(?:negative|minus)\b)"
)
# "... is 9 eggs. Therefore, she makes $18" leaves open which of the two is the answer.
_CONCLUDES = re.compile(
    r"\W*(?:(?:and\s+|but\s+)?(?:so|therefore|hence|thus|then|consequently|accordingly)\b"
    r"|(?:finally|altogether|overall|in\s+(?:total|all)|as\s+a\s+result)\b"
    r"|(?:that|this|it|which)(?:['’]s|\s+(?:is|makes|gives|means|leaves|equals|comes\s+to))\b"
    r"(?!\s+(?:because|how|why|the)\b)"
    r"|\\(?:therefore|implies|Rightarrow|to)(?![A-Za-z])|[∴⇒⟹→]|=>|->|因此|所以|donc\b|also\b)",
    re.IGNORECASE,
)
# "18" of "so she makes $18."
_LAST_DIGITS = re.compile(r"\d[\d,.]*(?=\D*\Z)")
# "If she had 5, ..."
_SUPPOSES = re.compile(
    r"\b(?:if|had|were|when|without|suppose|supposing|assuming|otherwise|instead)\b", re.IGNORECASE
)
_SENTENCE_ENDS = re.compile(r"[.!?](?=\s|$)|[。！？]|\n")


@dataclass(frozen=True)
class Segment:
    """A part of a text that may hold its answer."""

    text: str
    is_whole: bool
    """Whether the answer is the whole segment, as in a box, and not only its beginning."""
    decimal_comma: bool = False
    """Whether the language of the phrase before it writes 18,5 for 18.5."""


def boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}`, `\fbox{...}` or `\boxed 5`.

    None if there is no box, or if the last one is empty or never closed.
    """
    box = _last_box(text)
    return box[1] if box else None


def _last_box(text: str) -> tuple[int, str, int] | None:
    """Return the start, content and end of the last box."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    first, start = boxes[-1].span()
    if text[start : start + 1] != "{":
        match = _UNBRACED.match(text, start)
        content = match[0].strip().removesuffix(".").rstrip() if match else ""
        return (first, content, match.end()) if match and content else None
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            content = text[start + 1 : start + brace.start()].strip()
            return (first, content, start + brace.end()) if content else None
    return None


def _marked(text: str) -> list[tuple[int, int, Segment]]:
    """Return start, end and segment for the last marker of each kind, the last one first."""
    marked = []
    box = _last_box(text)
    if box:
        marked.append((box[0], box[2], Segment(box[1], is_whole=True)))
    cues = [(match, cue) for cue in _CUES for match in cue.finditer(text)]
    certain = [(match, cue) for match, cue in cues if not _is_hypothetical(text, match)]
    last = {cue: match for match, cue in (certain if box or certain else cues)}
    for cue, match in last.items():
        if not (box and box[0] <= match.start() < box[2]):
            start, end = match.span()
            # "The answer is—5": a long dash after a word is not a sign.
            after = text[end:].lstrip("\u2014\u2015") if match[0][-1].isalpha() else text[end:]
            marked.append((start, end, Segment(after, False, cue is _DECIMAL_COMMA)))
    return sorted(marked, key=lambda entry: entry[:2], reverse=True)


def _is_hypothetical(text: str, cue: re.Match[str]) -> bool:
    """Return whether a phrase supposes something: "if she had 5, the answer would be 10"."""
    if "would" not in cue[0].lower():
        return False
    before = _SENTENCE_ENDS.split(text[: cue.start()])[-1]
    after = _SENTENCE_ENDS.split(text[cue.end() :], maxsplit=1)[0]
    return _SUPPOSES.search(f"{before} {after}") is not None


def _concludes_otherwise(sentence: str, rest: str) -> bool:
    """Return whether the next sentence draws a conclusion that ends in another number."""
    if not _CONCLUDES.match(rest):
        return False
    digits = [
        match[0].rstrip(".,").replace(",", "") if match else None
        for match in map(_LAST_DIGITS.search, (sentence, _SENTENCE_ENDS.split(rest.strip())[0]))
    ]
    return None not in digits and digits[0] != digits[1]


def final_part(output: str) -> str:
    """Return a text without reasoning, text after the end of the turn, and invented questions."""
    text = _REASONING_ENDS.split(output)[-1]
    if _REASONING_STARTS.search(text):
        return ""
    text = _TURN_ENDS.split(text.strip(), maxsplit=1)[0]
    for question in _NEXT_QUESTION.finditer(text):
        before = text[: question.start()]
        if _marked(before):
            return before
    return text


def segments(output: str) -> Iterator[Segment]:
    """Yield the segments that may hold the answer, the last one first; none if it is retracted."""
    text = final_part(output)
    marked = _marked(text)
    for start, end, segment in marked:
        if segment.is_whole:
            rest = text[end:]
        else:
            line = next((i for i in range(end, len(text)) if text[i] not in " \t\n*:$"), len(text))
            stop = _SENTENCE_ENDS.search(text, line)
            rest = text[stop.end() :] if stop else ""
            sentence = text[line : stop.start() if stop else len(text)]
            if _DENIED.match(segment.text) or _concludes_otherwise(sentence, rest):
                return
            boxes = any(other.is_whole and at < start for at, _, other in marked)
            if boxes and not _VALUE_FIRST.match(segment.text):
                # After a box, "so the answer is correct" does not give another answer.
                continue
        if _RETRACTED.search(rest):
            return
        yield segment


def paper_segment(output: str) -> str | None:
    """Return the text after the last literal cue of the paper, or None without one."""
    _, cue, rest = output.rpartition(PAPER_CUE)
    return rest if cue else None
