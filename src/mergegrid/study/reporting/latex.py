"""LaTeX tables: booktabs, escaped, never wider than the text, over several pages if long."""

import re
from collections.abc import Sequence

HEAD = "% Needs \\usepackage{array,booktabs,graphicx,longtable,pdflscape}.\n"
LONG = 40
"""Rows above which a table may break over pages."""
_LINE = 100
"""Characters in footnote size, with gaps, that fit into a line of a portrait page."""
_WIDE = 150
"""The same for a landscape page."""
_TEXT = 22
"""Characters above which a column may be broken into lines."""
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "±": r"$\pm$", "≤": r"$\leq$", "≥": r"$\geq$", "−": r"$-$", "→": r"$\to$", "δ": r"$\delta$",
    "θ": r"$\theta$", "λ": r"$\lambda$",
}  # fmt: skip


def escaped(text: str) -> str:
    """Escape all characters that are special in LaTeX."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def latex_table(
    names: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], label: str,
    caption: str,
) -> str:  # fmt: skip
    """Format a table with a caption.

    Args:
        names: names of the columns.
        rows: text of each cell, row by row.
        right: whether each column is right-aligned.
        label: label for references to the table.
        caption: plain text, with code in backticks.
    """
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    total = sum(widths) + 2 * len(widths)
    page = _LINE if total <= _LINE else _WIDE
    long = len(rows) > LONG
    broken = long and total > page
    kinds = _columns(widths, right, page if broken else None)
    lines = [_row(row, kinds) for row in rows]
    head = [r"\toprule", _row(names, kinds), r"\midrule"]
    title = rf"\caption{{{_prose(caption)}}}\label{{tab:{label}}}"
    form = "".join(kinds)
    if long:
        body = _long(form, title, head, lines, len(names))
    else:
        body = _short(form, title, head, lines, len(names))
    # Short tables are shrunk to fit; long tables cannot be.
    if total > (_LINE if long else _WIDE):
        body = ["\\begin{landscape}", *body, "\\end{landscape}"]
    return HEAD + "\n".join(body) + "\n"


def _short(form: str, title: str, head: list[str], lines: list[str], count: int) -> list[str]:
    nothing = [rf"\multicolumn{{{count}}}{{l}}{{No rows.}} \\"]
    return [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize",
        title,
        # Shrink only a table that is wider than the text.
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{form}}}",
        *head,
        *(lines or nothing),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]


def _long(form: str, title: str, head: list[str], lines: list[str], count: int) -> list[str]:
    return [
        r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{{form}}}",
        rf"{title}\\",
        *head,
        r"\endfirsthead",
        *head,
        r"\endhead",
        rf"\midrule \multicolumn{{{count}}}{{r}}{{continued on the next page}} \\",
        r"\endfoot",
        r"\bottomrule",
        r"\endlastfoot",
        *lines,
        r"\end{longtable}",
        r"\endgroup",
    ]


def _columns(widths: list[int], right: Sequence[bool], page: int | None) -> list[str]:
    """Return the type of each column; if a page is too narrow, long texts share what is left."""
    kinds = ["r" if flag else "l" for flag in right]
    if page is None:
        return kinds
    wide = {column: width for column, width in enumerate(widths) if width > _TEXT}
    fixed = sum(width + 2 for column, width in enumerate(widths) if column not in wide)
    available = max(page - fixed, 12 * len(wide))
    for column, width in wide.items():
        share = width / sum(wide.values())
        kinds[column] = rf"p{{{available * share / page:.2f}\linewidth}}"
    return kinds


def _row(cells: Sequence[str], kinds: Sequence[str]) -> str:
    texts = [escaped(cell) for cell in cells]
    # Names and JSON have no spaces for line breaks.
    texts = [
        r"\raggedright\arraybackslash " + _breakable(text) if kind[0] == "p" else text
        for text, kind in zip(texts, kinds, strict=True)
    ]
    return " & ".join(texts) + r" \\"


def _breakable(text: str) -> str:
    return re.sub(r"(\\_|[,:+/-])", r"\1\\allowbreak{}", text)


def _prose(text: str) -> str:
    parts = [escaped(part) for part in text.split("`")]
    return "".join(rf"\texttt{{{part}}}" if index % 2 else part for index, part in enumerate(parts))
