"""Files of tables and figures: the same input gives the same bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mergegrid.study.reporting.latex import latex_table
from mergegrid.study.reporting.table_page import table_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_table(
    table: pd.DataFrame,
    csv: Path,
    markdown: Path,
    html: Path,
    latex: Path,
    caption: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Write a table as CSV, with six significant digits, and rounded as Markdown, HTML and LaTeX.

    Notes are printed below the table; in LaTeX they are part of the caption.
    """
    for path in (csv, markdown, html, latex):
        path.parent.mkdir(parents=True, exist_ok=True)
    csv.write_text(table.to_csv(index=False, float_format="%.6g", lineterminator="\n"), "utf-8")
    below = "".join(f"\n{note}\n" for note in notes)
    markdown.write_text(markdown_table(table) + below, "utf-8")
    text = _as_text(table)
    right = [_is_number(table[name]) for name in table.columns]
    html.write_text(table_page(html.stem, text, right, notes), "utf-8")
    rows = text.to_numpy().tolist()
    caption = " ".join([caption or latex.stem, *notes])
    latex.write_text(latex_table(list(table.columns), rows, right, latex.stem, caption), "utf-8")


def write_figure(figure: "Figure", svg: Path, png: Path) -> None:
    """Write a figure as SVG and PNG, without dates and versions."""
    # Tables, most of the jobs on results, need no matplotlib.
    from mergegrid.study.reporting.style import styled

    for path in (svg, png):
        path.parent.mkdir(parents=True, exist_ok=True)
    with styled():
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", metadata={"Software": None})


def markdown_table(table: pd.DataFrame) -> str:
    """Format a table in Markdown: three decimals, three significant digits below 0.1.

    Columns of short values (rates, counts) are not padded; missing values are empty. A table
    without rows has a sentence below its head.
    """
    columns = list(table.columns)
    if table.empty:
        head = f"| {' | '.join(columns)} |\n|{'|'.join(' --- ' for _ in columns)}|\n"
        return f"{head}\nNo rows: this study has nothing for this table.\n"
    text = _as_text(table)
    align = ["right" if _is_number(table[name]) else "left" for name in columns]
    return text.to_markdown(index=False, disable_numparse=True, colalign=align) + "\n"


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({name: _cells(table[name]) for name in table.columns}, dtype="object")


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _cells(column: pd.Series) -> list[str]:
    if not pd.api.types.is_float_dtype(column):
        return ["" if pd.isna(value) else str(value) for value in column]
    known = column.dropna()
    short = bool((known.round(2) == known).all())
    return ["" if pd.isna(value) else _number(float(value), short) for value in column]


def _number(value: float, short: bool) -> str:
    if short:
        return f"{value:.12g}"
    if abs(value) < 1e-12:  # Zero up to rounding.
        return "0.000"
    return f"{value:#.3g}" if abs(value) < 0.1 else f"{value:.3f}"
