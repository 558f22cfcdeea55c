"""The findings of a study in words: `findings.md`, and the same as a page of the report."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from mergegrid.study.reporting.advice import advice, cost_sentences, limits
from mergegrid.study.reporting.rows import variant_labels
from mergegrid.study.reporting.sentences import (
    Row,
    best_sentence,
    count,
    experts_sentence,
    measures_sentence,
    rate_sentences,
    rows_of,
    sparsifier_sentence,
)
from mergegrid.study.scoring.differences import LEVEL

_LONGEST = 8
"""Sets of experts that have a sentence of their own; the others are counted."""
_PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<title>Findings</title>
<style>
.findings {{ font-family: sans-serif; font-size: 14px; line-height: 1.5; max-width: 60em; }}
.findings li {{ margin-bottom: 0.4em; }}
.findings.findings code::before, .findings.findings code::after {{ content: none; }}
/* The report centers its pages, which hides the top and the left of what does not fit. */
.items-center.h-screen:has(.findings) {{ align-items: start; justify-content: start; }}
.prose.max-w-lg:has(.findings) {{ max-width: 60em; }}
/* The first page has a title of its own, and the graph of rules below. */
.document .findings h1 {{ display: none; }}
.items-start.flex:has(> * > .prose .findings) {{ flex-direction: column; }}
</style>
<div class="findings">
{body}
</div>
"""


@dataclass(frozen=True)
class Section:
    """Sentences under a heading; `**` marks strong text, backquotes names."""

    title: str
    sentences: list[str]
    depth: int = 2
    """1 for the title of the page."""


def finding_table(findings: pd.DataFrame) -> pd.DataFrame:
    """Every finding with its numbers, in the order of the families and of the sentences."""
    return findings


def sections(
    findings: pd.DataFrame, scores: pd.DataFrame, costs: pd.DataFrame, title: str
) -> list[Section]:
    """Write the findings of a study.

    Args:
        findings: rows of `findings.parquet`.
        scores: rows of `scores.parquet`.
        costs: measurements of all jobs, from `job_costs`.
        title: title of the study.
    """
    made = [
        Section(
            f"Findings: {title}",
            [
                "Differences are in points: scores times 100, on test examples. Every difference "
                "is paired. In brackets are its interval, its test and the table in `tables/` "
                "with the numbers. Intervals and p-values are corrected together for all "
                "comparisons of one kind in a family.",
            ],
            depth=1,
        )
    ]
    for family, all_scores in scores.groupby("family", sort=False):
        of_family = findings[findings["family"] == family]
        made += [
            Section(str(family), _warnings(of_family, all_scores)),
            Section("Which recipe is best?", _best(of_family, all_scores), 3),
            Section("Do sparsifiers help?", _sparsifiers(of_family, all_scores), 3),
            Section("How many deltas can be dropped?", _rates(of_family), 3),
            Section("What cannot be said", limits(of_family, all_scores), 3),
            Section("What to do next", advice(of_family), 3),
        ]
    made.append(Section("What it cost", cost_sentences(costs, scores)))
    # A family keeps its heading.
    return [section for section in made if section.sentences or section.depth == 2]


def write_findings(made: Sequence[Section], markdown: Path, html: Path) -> None:
    """Write sections as Markdown and as a page."""
    for path in (markdown, html):
        path.parent.mkdir(parents=True, exist_ok=True)
    markdown.write_text("\n\n".join(_markdown(made)) + "\n", encoding="utf-8")
    html.write_text(_PAGE.format(body="\n".join(_html(made))), encoding="utf-8")


def _warnings(findings: pd.DataFrame, scores: pd.DataFrame) -> list[str]:
    if "test" not in set(findings["selection"]):
        return []
    return [
        "**Settings were selected on the test split** (`selection: test`, as in the paper): scores "
        "of merges and what sparsifiers change are optimistically biased by an unknown amount, "
        "which no interval below contains. Select on `validation` for unbiased ones."
    ]


def _best(findings: pd.DataFrame, scores: pd.DataFrame) -> list[str]:
    rows = {kind: rows_of(findings, kind) for kind in ("best", "experts")}
    places = {kind: [row.experts for row in rows[kind]] for kind in rows}
    sentences = {
        "best": [best_sentence(row) for row in rows["best"]],
        "experts": [
            experts_sentence(row, after_best=row.experts in places["best"])
            for row in rows["experts"]
        ],
    }
    shown = list(dict.fromkeys([*places["best"], *places["experts"]]))
    made = []
    for experts in shown[:_LONGEST]:
        parts = [
            sentences[kind][places[kind].index(experts)]
            for kind in ("best", "experts")
            if experts in places[kind]
        ]
        row = next(row for kind in rows for row in rows[kind] if row.experts == experts)
        made.append(" ".join(parts) + measures_sentence(row))
    if len(shown) > _LONGEST:
        made.append(f"{len(shown) - _LONGEST} more sets are in table `findings`.")
    if len(shown) > 2:
        made += _counted([row for row in rows["best"] if row.experts])
    return made


def _counted(rows: Sequence[Row]) -> Iterator[str]:
    """Count the sets on which each recipe is best."""
    apart = [row for row in rows if row.p_corrected < LEVEL]
    yield (
        f"A best recipe can be told apart from all others on {len(apart)} of "
        f"{count(len(rows), 'set')} (paired t tests, corrected for all sets; table `findings`)."
    )


def _sparsifiers(findings: pd.DataFrame, scores: pd.DataFrame) -> list[str]:
    return [sparsifier_sentence(row) for row in rows_of(findings, "sparsifier")]


def _rates(findings: pd.DataFrame) -> list[str]:
    points = findings[findings["kind"] == "drop_rate"]
    labels = variant_labels(points)
    made = []
    for (kind, settings), rows in points.groupby(["sparsifier", "settings"], sort=False):
        order = rows["rate"].astype("float64").sort_values().index
        sentence = rate_sentences(list(rows.loc[order].itertuples(index=False)))
        label = labels[str(kind), str(settings)]
        made.append(sentence.replace(":", f" ({label}):", 1) if label else sentence)
    return made


def _markdown(made: Sequence[Section]) -> Iterator[str]:
    for section in made:
        yield f"{'#' * section.depth} {section.title}"
        if section.depth == 1:
            yield from section.sentences
        elif section.sentences:
            yield "\n".join(f"- {sentence}" for sentence in section.sentences)


def _html(made: Sequence[Section]) -> Iterator[str]:
    for section in made:
        yield f"<h{section.depth}>{escape(section.title)}</h{section.depth}>"
        tag = "p" if section.depth == 1 else "li"
        lines = [f"<{tag}>{_marked(sentence)}</{tag}>" for sentence in section.sentences]
        yield "\n".join(lines if tag == "p" or not lines else ["<ul>", *lines, "</ul>"])


def _marked(sentence: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(sentence))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)
