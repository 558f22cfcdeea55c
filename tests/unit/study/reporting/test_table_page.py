"""Pages of tables, in a real browser: they sort, filter and search."""

import json
import re

import pandas as pd
import pytest
from browser import NAMES, Browser, find_browser

from mergegrid.study.reporting.table_page import table_page

ROWS = {
    "method": ["ties", "average", "TIES <b>", "slerp"],
    "score": ["0.100 ± 0.010", "0.9", "", "inf"],
    "rate": ["10", "9", "1e-3", "0.5"],
}
PAGE = table_page("t", pd.DataFrame(ROWS), [False, False, True], ["a < b"])


def test_a_page_is_whole_without_the_network_and_shows_texts_as_they_are():
    assert not re.search(r"(?:https?:|src=|href=|import |@import)", PAGE)
    assert "<td>TIES &lt;b&gt;</td>" in PAGE
    assert '<td class="number">10</td>' in PAGE
    assert "<p>a &lt; b</p>" in PAGE


def test_long_cells_are_broken_and_not_cut():
    text = json.dumps(dict.fromkeys(map(str, range(30)), 1))
    page = table_page("t", pd.DataFrame({"settings": [text]}), [False], [])
    assert re.search(r'<td class="long">(.*?)</td>', page)[1].replace("&quot;", '"') == text


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_browser() is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on the PATH")
    made = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield made
    made.close()


@pytest.fixture
def opened(browser, tmp_path):
    (tmp_path / "t.html").write_text(PAGE)
    browser.open(tmp_path / "t.html")
    return browser


def methods(browser):
    cells = "[...document.querySelectorAll('tbody tr')].map(row => row.cells[0].textContent)"
    return browser.run(cells)


def write(browser, place, text):
    find = f"document.querySelectorAll('input')[{place}]"
    browser.run(f"{find}.value = {json.dumps(text)}; {find}.dispatchEvent(new Event('input'))")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "ascending"),
    [
        # Numbers by value, also those with a spread; nothing comes last, in both directions.
        (1, ["ties", "average", "slerp", "TIES <b>"]),
        (2, ["TIES <b>", "slerp", "average", "ties"]),
    ],
)
def test_a_click_sorts_another_turns_and_a_third_restores(opened, column, ascending):
    button = f"document.querySelectorAll('th')[{column}].querySelector('button')"
    state = f"document.querySelectorAll('th')[{column}].getAttribute('aria-sort')"
    opened.run(f"{button}.click()")
    assert (methods(opened), opened.run(state)) == (ascending, "ascending")
    opened.run(f"{button}.click()")
    filled = [name for name in ascending if column != 1 or name != "TIES <b>"]
    empty = ascending[len(filled) :]
    assert (methods(opened), opened.run(state)) == ([*filled[::-1], *empty], "descending")
    opened.run(f"{button}.click()")
    assert (methods(opened), opened.run(state)) == (ROWS["method"], None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "text", "found"),
    [
        (0, "TIES", ["ties", "TIES <b>"]),
        (0, "ties 1e", ["TIES <b>"]),
        (0, "nothing", []),
        (1, "ie", ["ties", "TIES <b>"]),
        (1, "=ties", ["ties"]),
        (2, ">0.5", ["average", "slerp"]),
        (2, "<= 0.1", ["ties"]),
        (3, ">=9", ["ties", "average"]),
        # Half a comparison is a text.
        (2, ">", []),
    ],
)
def test_search_and_filters_keep_rows_and_count_them(opened, place, text, found):
    write(opened, place, text)
    assert methods(opened) == found
    assert opened.run("document.querySelector('#count').textContent") == f"{len(found)} of 4 rows"
    write(opened, place, "")
    assert methods(opened) == ROWS["method"]
