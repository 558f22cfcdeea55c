"""Sentences about single findings: numbers in points, interval, test and table.

A point is a hundredth of a score. `Row` is a row of `findings.parquet` with the columns of
`scoring.findings.COLUMNS`.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mergegrid.study.reporting.style import words
from mergegrid.study.scoring.design import SINGLE
from mergegrid.study.scoring.differences import LEVEL
from mergegrid.study.scoring.findings import LEAST

Row = Any
"""A row of findings, by name or attribute."""
SMALL = LEAST
"""An effect below it, one point, is called none."""
WIDEST = 1.0
"""A wider interval for other experts, 100 points, is not printed."""
_NAMED = 5
"""Of more recipes than this and one, a sentence names so many."""


def best_sentence(row: Row) -> str:
    """Say which recipe is best, and by how much."""
    lead = f"{points(row.score)} points on average over {count(row.tasks, 'task')}"
    gap = f"{points(row.difference)} above {recipe_words(row.against)} {evidence(row)}"
    name = f"**{recipe_of(row)}**"
    if row.p_corrected < LEVEL:
        return f"{place(row)}, {name} is the best recipe: {lead}, {gap}."
    tied = _leading([recipe_words(name) for name in row.tied.split("; ")])
    return (
        f"{place(row)}, {name} leads with {lead}, {gap}, but cannot be told apart from "
        f"{'it' if row.tied == row.against else tied}."
    )


def experts_sentence(row: Row, after_best: bool = False) -> str:
    """Compare the best recipe with single experts; `after_best`: after the sentence on it."""
    other = "the single experts, each on its task"
    if row.against != SINGLE:
        other = f"the best single expert, {row.against.removeprefix('expert ')}"
    name = recipe_of(row)
    subject = f"There, {name}" if after_best else f"{place(row)}, {name}"
    if row.p_corrected < LEVEL:
        side = "above" if row.difference > 0 else "below"
        size = points(abs(row.difference))
        return f"{subject} is {size} points {side} {other} {evidence(row)}."
    return (
        f"{subject} cannot be told apart from {other}: "
        f"{points(row.difference, sign=True)} points {evidence(row)}."
    )


def measures_sentence(row: Row) -> str:
    """Say on how many sets a merge scores above base and experts, and what of the gain it keeps."""
    parts = []
    if row.sets > 1 and not math.isnan(row.over_base):
        above = f"the base's on {round(row.over_base * row.sets)} of {row.sets} sets"
        if not math.isnan(row.over_experts):
            above += f" and above the single experts' on {round(row.over_experts * row.sets)}"
        parts.append(f"its score is above {above}")
    if not math.isnan(row.retained):
        kept = f"{100 * row.retained:.0f} %"
        parts.append(f"it keeps {kept} of the gain from the base to the single experts")
    if not parts:
        return ""
    text = "; ".join(parts)
    return f" {text[0].upper()}{text[1:]} (test scores; table `findings`)."


def sparsifier_sentence(row: Row) -> str:
    """Say whether a sparsifier helps a method."""
    subject = f"{sparsifier_of(row)} before {words(row.method)}"
    over = f" over {count(row.sets, 'set')} of experts" if row.sets > 1 else f" on {sets_of(row)}"
    if row.p_corrected < LEVEL:
        verb = "**raises**" if row.difference > 0 else "**lowers**"
        size = points(abs(row.difference))
        return f"{subject} {verb} the score by {size} points{over} {evidence(row)}."
    return f"{subject} {_no_effect(row, 'the score')}{over} {evidence(row)}."


def rate_sentences(rows: Sequence[Row]) -> str:
    """Say up to which drop rate the experts keep their score, for one sparsifier and settings.

    Args:
        rows: its findings, by increasing rate.
    """
    kept: list[Row] = []
    for row in rows:
        if row.low < -SMALL:
            break
        kept.append(row)
    lower = [row for row in rows if row.p_corrected < LEVEL and row.difference < 0]
    name = words(rows[0].sparsifier).capitalize()
    name = words(rows[0].sparsifier) if words(rows[0].sparsifier).isupper() else name
    parts = []
    if kept:
        last = kept[-1]
        loss = bound(max(0.0, *(-row.low for row in kept)))
        rates = f"up to a rate of {last.rate}" if len(kept) > 1 else f"at a rate of {last.rate}"
        parts.append(f"{rates} the experts lose no more than {loss} points {evidence(last)}")
    if lower:
        worst = lower[0]
        size = points(-worst.difference)
        subject = "they" if kept else "the experts"
        parts.append(f"at {worst.rate} {subject} are {size} points **lower** {evidence(worst)}")
    rest = [row for row in rows if row not in kept and row not in lower]
    if rest:
        rates = enumerated([row.rate for row in rest])
        first = f"{points(rest[0].difference, sign=True)} points"
        where = f" at {rest[0].rate}" if len(rest) > 1 else ""
        subject = "they" if kept or lower else "the experts"
        parts.append(
            f"at {rates} it is open whether {subject} lose: {first}{where} {evidence(rest[0])}"
        )
    return f"{name}: {'; '.join(parts)}."


def _no_effect(row: Row, what: str) -> str:
    beyond = max(abs(row.low), abs(row.high))
    if beyond <= SMALL:
        return f"has no effect on {what} beyond ±{bound(beyond)} points"
    change = points(row.difference, sign=True)
    return f"changes {what} by {change} points, which may be chance,"


def evidence(row: Row) -> str:
    """Interval, test and table of a finding, in brackets."""
    corrected = f", corrected for {row.comparisons} comparisons" if row.comparisons > 1 else ""
    others = ""
    if not math.isnan(row.low_others):
        others = "; too few experts to say anything about others"
        if row.high_others - row.low_others <= WIDEST:
            ends = f"{points(row.low_others)} to {points(row.high_others)}"
            others = f"; {ends} for other experts like these"
    return (
        f"(95 % interval {points(row.low)} to {points(row.high)}{others}; paired t test, "
        f"{p_text(row.p_corrected)}{corrected}; table `findings`)"
    )


def place(row: Row) -> str:
    """Where a finding holds, at the start of a sentence."""
    return f"On {sets_of(row)}" if row.experts else f"Over all {row.sets} sets"


def sets_of(row: Row) -> str:
    """Experts of a finding on one set."""
    return str(row.experts).replace("+", " + ")


def recipe_of(row: Row) -> str:
    """Readable recipe of a row, with its rate: `TIES with DARE at 0.9`."""
    method = words(row.method)
    return method if row.sparsifier == "none" else f"{method} with {sparsifier_of(row)}"


def sparsifier_of(row: Row) -> str:
    """Readable sparsifier of a row with its selected rates: `DARE at 0.9`."""
    return words(row.sparsifier) + (f" at {row.rate}" if row.rate else "")


def recipe_words(name: str) -> str:
    """Readable form of a recipe's name in `against` and `tied`: `TIES with DARE`."""
    return " with ".join(words(part) for part in name.split(" with "))


def points(value: float, sign: bool = False) -> str:
    """A difference of scores in points: two decimals below one point, else one."""
    value *= 100
    if not math.isfinite(value):
        return "unknown"
    digits = 2 if abs(value) < 0.995 else 1
    return f"{value + 0.0:{'+' if sign else ''}.{digits}f}"


def bound(value: float) -> str:
    """A limit in points, rounded up: two digits below one point, else one."""
    factor = 100 if value < 0.0095 else 10
    return f"{math.ceil(value * 100 * factor - 1e-9) / factor:g}"


def p_text(p: float) -> str:
    """`p = 0.03` or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.1g}" if p < 0.01 else f"p = {p:.2f}"


def count(number: int, noun: str) -> str:
    """`1 task`, `3 tasks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def enumerated(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _leading(names: Sequence[str]) -> str:
    """The names, or the first ones and the number of the others."""
    others = len(names) - _NAMED
    return enumerated(names if others <= 1 else [*names[:_NAMED], f"{others} others"])


def rows_of(findings: pd.DataFrame, kind: str) -> list[Row]:
    """Rows of one kind."""
    return list(findings[findings["kind"] == kind].itertuples(index=False))
