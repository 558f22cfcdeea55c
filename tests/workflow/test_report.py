"""The report in a real browser: every table and figure of the study is listed and opens."""

import json

import pytest
from browser import Browser
from matplotlib.image import imread

from mergegrid.reporting.specs import FIGURES, TABLES

pytestmark = pytest.mark.workflow

ROWS = "[...document.querySelectorAll('nav tbody tr')]"
#: What a result shows: the source of its frame or picture, once it is there.
VIEW = """(() => {
    const frame = document.querySelector('iframe');
    const drawn = [...document.querySelectorAll('img')].find(each => each.naturalWidth > 300);
    return frame?.src ?? (drawn?.complete ? drawn.src : '');
})()"""


@pytest.fixture(scope="module")
def report(smoke):
    smoke.snakemake("--cores", "1", "--report", "report.html")
    return smoke.folder / "report.html"


@pytest.fixture
def browser(tmp_path, report):
    browser = Browser(tmp_path / "profile")
    browser.open(report)
    browser.wait("document.querySelectorAll('nav li a').length > 3")
    yield browser
    browser.close()


def click(browser, text):
    """Click on what stands in the menu under a name."""
    find = f"[...document.querySelectorAll('nav a')].find(a => a.innerText.trim() === '{text}')"
    browser.wait(f"Boolean({find})")
    browser.run(f"{find}.click()")


def listed(browser):
    """Every category and subcategory with the labels of its results, opened by clicks."""
    for category, topics in json.loads(browser.run("JSON.stringify(categories)")).items():
        for topic, paths in topics.items():
            browser.run("document.querySelector('nav ol a').click()")
            click(browser, category)
            if topic != "Other":
                click(browser, topic)
            browser.wait(f"{ROWS}.length === {len(paths)}")
            labels = browser.run(f"{ROWS}.map(row => row.cells[0].innerText.trim())")
            yield category, topic, labels


def test_every_table_and_figure_is_listed_and_opens_and_none_is_empty(smoke, browser, tmp_path):
    seen, shots = set(), tmp_path / "screenshots"
    shots.mkdir()
    for category, topic, labels in listed(browser):
        for at, label in enumerate(labels):
            before = browser.run(VIEW)
            browser.run(f"{ROWS}[{at}].querySelectorAll('a')[0].click()")
            browser.wait(f"{VIEW} !== {json.dumps(before)}")
            if category == "Tables":
                page = "atob(document.querySelector('iframe').src.split(',')[1])"
                parse = f"new DOMParser().parseFromString({page}, 'text/html')"
                assert browser.run(f"{parse}.querySelectorAll('tbody tr').length"), label
            shot = shots / f"{category}-{topic}-{label}.png"
            browser.screenshot(shot)
            content = imread(shot)[100:-100, 600:, :3]
            assert content.std() > 0.02, f"{shot} is blank"
            seen.add((category, topic, label))
    results = smoke.folder / "results" / "smoke"
    tables = {path.stem for path in (results / "tables").glob("*.html")}
    figures = {path.stem for path in (results / "figures" / "minilm").glob("*.svg")}
    assert tables
    assert figures
    assert seen == {("Tables", TABLES[name].topic, name) for name in tables} | {
        ("Figures", "minilm", name) for name in figures
    }


def test_the_caption_of_every_table_and_figure_says_what_it_shows(browser):
    texts = "(html => new DOMParser().parseFromString(html, 'text/html').body.innerText)"
    captions = browser.run(
        f"Object.entries(results).map(([path, each]) => [path, {texts}(each.caption)])"
    )
    for path, caption in captions:
        kind, name = path.split("/")[2], path.split("/")[-1].split(".")[0]
        spec = {"tables": TABLES, "figures": FIGURES}[kind][name]
        told = spec.caption.format(family="minilm").replace("`", "")
        assert " ".join(caption.split()) == " ".join(told.split())


def test_the_information_of_a_result_opens_with_its_caption(browser):
    _, _, labels = next(listed(browser))
    browser.run(f"{ROWS}[0].querySelectorAll('a')[1].click()")
    specs = TABLES if labels[0] in TABLES and labels[0] not in FIGURES else FIGURES
    start = specs[labels[0]].caption.format(family="minilm").replace("`", "")[:30]
    browser.wait(f"document.querySelector('nav').innerText.includes({json.dumps(start)})")
