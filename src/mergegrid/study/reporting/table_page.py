"""A table as a page that sorts, filters and searches itself, without the network.

The report holds each table as a page of its own, so whatever a page needs is in the report once per
table: for a library such as DataTables that is 0.7 MB each time, for the script below 3 kB.
"""

from collections.abc import Sequence
from html import escape

import pandas as pd

_STYLE = """
:root { --page: #fff; --text: #111; --line: #ddd; --head: #eee; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --page: #1b1b1d; --text: #e6e6e6; --line: #444; --head: #2c2c30; }
}
body { font: 13px sans-serif; margin: 16px; background: var(--page); color: var(--text); }
#tools { display: flex; flex-wrap: wrap; gap: 6px 16px; align-items: center; margin-bottom: 10px; }
#tools[hidden] { display: none; }
#tools p { margin: 0; opacity: 0.75; }
input { font: inherit; padding: 3px 6px; border: 1px solid #8888; border-radius: 3px; }
#search { width: 18em; max-width: 100%; }
#frame { overflow: auto; max-height: 85vh; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--line); padding: 4px 10px; text-align: left; }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 24em; overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
th { background: var(--head); position: sticky; top: 0; vertical-align: top; }
th button { all: unset; cursor: pointer; font-weight: bold; white-space: nowrap; }
th button:focus-visible { outline: 2px solid Highlight; }
th button::after { content: "\\2195"; opacity: 0.35; padding-left: 4px; }
th[aria-sort="ascending"] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort="descending"] button::after { content: "\\2193"; opacity: 1; }
th input { display: block; box-sizing: border-box; width: 100%; min-width: 5em; }
th input { margin-top: 4px; font-weight: normal; }
"""
_LONG = 60
"""Longer cells are broken into lines."""

_SCRIPT = r"""
const table = document.querySelector("table"), body = table.tBodies[0];
const rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
const search = document.querySelector("#search"), count = document.querySelector("#count");
const texts = rows.map(row => [...row.cells].map(cell => cell.textContent.toLowerCase()));
// "0.913 ± 0.02" is the number 0.913; "7 of 9" and "2311.03099, table 1" are texts.
const number = text => text.trim() === "inf" ? Infinity
  : /^-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(\s±.*)?$/.test(text.trim()) ? parseFloat(text) : NaN;
const operators = {
  ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b,
};
let sorted = null, descending = false;

function matches(text, filter) {
  const [, operator, value] = filter.match(/^([<>]=?|=)?\s*(.*)$/);
  if (operator === "=") return text.trim() === value;
  if (operator && !Number.isNaN(number(value)))
    return operators[operator](number(text), number(value));
  return text.includes(filter);
}

function compare(a, b) {
  const [x, y] = [number(a), number(b)];
  if (!a.trim() || !b.trim()) return 0;
  if (Number.isNaN(x) || Number.isNaN(y)) return a.localeCompare(b, "en", {numeric: true});
  return x === y ? 0 : x - y;
}

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const filters = heads.map(head => head.querySelector("input").value.trim().toLowerCase());
  const kept = rows.map((_, at) => at).filter(at =>
    words.every(word => texts[at].some(text => text.includes(word))) &&
    filters.every((filter, column) => !filter || matches(texts[at][column], filter)));
  if (sorted !== null) {
    const empty = at => !texts[at][sorted].trim();
    kept.sort((a, b) => empty(a) - empty(b) ||
      (descending ? -1 : 1) * compare(texts[a][sorted], texts[b][sorted]) || a - b);
  }
  body.replaceChildren(...kept.map(at => rows[at]));
  count.textContent = kept.length === rows.length
    ? `${rows.length} rows` : `${kept.length} of ${rows.length} rows`;
}

heads.forEach((head, column) => {
  const name = head.textContent;
  head.innerHTML = `<button></button><input placeholder="filter">`;
  const [button, input] = head.children;
  button.textContent = name;
  input.setAttribute("aria-label", `filter ${name}`);
  input.addEventListener("input", show);
  button.addEventListener("click", () => {
    // First ascending, then descending, then the order of the study.
    if (sorted !== column) [sorted, descending] = [column, false];
    else if (!descending) descending = true;
    else sorted = null;
    heads.forEach(each => each.removeAttribute("aria-sort"));
    if (sorted !== null) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    show();
  });
});
search.addEventListener("input", show);
document.querySelector("#tools").hidden = false;
show();
"""

_TOOLS = """<div id="tools" hidden>
<input id="search" type="search" placeholder="search all columns" aria-label="search all columns">
<p id="count" role="status"></p>
<p>Click a name to sort. Filters: part of a text, <code>=dare</code>, <code>&gt;0.9</code>,
<code>&lt;=3</code>.</p>
</div>"""


def table_page(
    title: str, texts: pd.DataFrame, numbers: Sequence[bool], notes: Sequence[str]
) -> str:
    """Return the page of a table.

    Args:
        title: title of the page.
        texts: cells as they are to be read.
        numbers: for each column, whether it holds numbers, which are aligned to the right.
        notes: lines below the table.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in texts.columns)
    rows = [
        "".join(map(_cell, cells, numbers)) for cells in texts.itertuples(index=False, name=None)
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    below = "".join(f"\n<p>{escape(note)}</p>" for note in notes)
    return f"""<!DOCTYPE html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
{_TOOLS}
<div id="frame"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>{below}
<script>{_SCRIPT}</script>
"""


def _cell(text: str, number: bool) -> str:
    kind = ' class="number"' if number else ' class="long"' if len(text) > _LONG else ""
    return f"<td{kind}>{escape(text)}</td>"
