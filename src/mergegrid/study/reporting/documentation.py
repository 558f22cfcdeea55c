"""`docs/results.md` and `docs/published.md`: what a run leaves, and which numbers it compares."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mergegrid.study.reporting.specs import FIGURES, TABLES, FigureSpec, TableSpec
from mergegrid.study.schema.published import Cell, read_published
from mergegrid.study.scoring.scores import COLUMNS

_HINT = "<!-- Made by `mergegrid docs`; edit its sources, not this file. -->"
_KINDS = {
    "scores": "`scores.parquet`",
    "deltas": "the measured deltas",
    "similarity": "the measured similarities of embeddings",
    "experts": "the published encoders",
    "decoders": "the published decoders",
    "sources": "the records of what was fetched",
    "comparisons": "the paired comparisons of answers",
}


def write_results_documentation(root: Path) -> None:
    """Bring `docs/results.md` and `docs/published.md` below a folder up to date."""
    for name, text in (("results", results_text()), ("published", published_text(root))):
        path = root / "docs" / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def results_text() -> str:
    """Every column of the scores, every table with its columns, every figure."""
    parts = [
        "# Results",
        _HINT,
        "What a study leaves in its folder of results: one file of scores, from which tables and "
        "figures are made. `snakemake --report` puts all of them on one page.",
        "## Scores",
        "`scores.parquet` has one row per recipe, task head, split and metric:",
        _table(
            ["column", "type", "meaning"],
            [[f"`{name}`", kind, meaning] for name, (kind, meaning) in COLUMNS.items()],
        ),
        "## Tables",
        "`tables/{table}.csv` is for programs, with six significant digits; `.md`, `.html` and "
        "`.tex` are for people. A table is there where the study has something for it.",
        *(part for name, spec in TABLES.items() for part in _about_table(name, spec)),
        "## Figures",
        "`figures/{family}/{figure}.svg` and `.png`, for each family:",
        _table(
            ["figure", "shows", "made from"],
            [_about_figure(name, spec) for name, spec in FIGURES.items()],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def published_text(root: Path) -> str:
    """Every published number, and whether it can be measured again.

    Args:
        root: the folder with `resources`.
    """
    cells = read_published(root / "resources" / "published.csv")
    with (root / "resources" / "measured.csv").open(encoding="utf-8", newline="") as lines:
        groups = list(csv.DictReader(lines))
    parts = [
        "# Published numbers",
        _HINT,
        "Numbers of the paper (arXiv 2311.03099), and which of them a study here measures again. "
        "A family says in its `published` what the paper calls its models; the table "
        "`published`, and for pairs `sparsifier_effects`, then has both side by side.",
        "## What can be measured again",
        _table(
            ["group", "shows", "can be measured", "why", "configuration", "table"],
            [
                [
                    _named(group),
                    group["shows"],
                    group["can_be_measured"],
                    group["why"],
                    _link(group["config"]),
                    f"[{group['result']}](results.md#{group['result']})" if group["result"] else "",
                ]
                for group in groups
            ],
        ),
        "## The numbers",
        "Values in per cent but for cosines. Trust `high` is printed in the paper, `figure` is "
        "read off a drawing, to about 0.1.",
        *_groups(cells),
    ]
    return "\n\n".join(parts) + "\n"


def _about_table(name: str, spec: TableSpec) -> list[str]:
    rows = [[f"`{column}`", meaning] for column, meaning in spec.columns.items()]
    made = f"Made from {_KINDS[spec.needs]}; in the report under *{spec.topic}*."
    return [f"### {name}", f"{spec.title}.", made, _table(["column", "meaning"], rows)]


def _about_figure(name: str, spec: FigureSpec) -> list[str]:
    caption = spec.caption.format(family="a family")
    return [f"`{name}`", f"{spec.title}. {caption}", _KINDS[spec.needs]]


def _groups(cells: Iterable[Cell]) -> list[str]:
    by_table: dict[str, list[list[str]]] = {}
    for cell in cells:
        row = [
            cell.models,
            cell.method,
            cell.sparsifier + {None: "", True: ", rescaled", False: ""}[cell.rescale],
            *("" if each is None else f"{each:g}" for each in (cell.rate, cell.scale)),
            cell.dataset,
            cell.metric,
            f"{cell.value:.2f}",
            cell.source,
            cell.trust,
        ]
        by_table.setdefault(cell.table, []).append(row)
    head = ["models", "method", "sparsifier", "rate", "scale", "data set", "metric", "value"]
    return [
        part
        for table, rows in by_table.items()
        for part in (f"### {table}", _table([*head, "source", "trust"], rows))
    ]


def _named(group: Mapping[str, str]) -> str:
    dataset = f", {group['dataset']}" if group["dataset"] else ""
    return f"[{group['table']}](#{group['table']}){dataset}"


def _link(config: str) -> str:
    return f"[{config}](../config/{config})" if config else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        head,
        ["---"] * len(head),
        *([text.replace("|", "\\|") for text in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
