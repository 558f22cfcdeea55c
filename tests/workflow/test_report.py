"""The report in a real browser: every table and figure of the study is listed and opens."""

import json
import time

import pytest
from browser import NAMES, WAIT, Browser, find_browser
from matplotlib.image import imread
from project import REPOSITORY

from mergegrid.study.reporting.catalogue import FIGURES, TABLES

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(
        find_browser() is None,
        reason=f"none of {', '.join(NAMES)} is on the PATH; on Debian: apt-get install chromium",
    ),
]

ROWS = "[...document.querySelectorAll('nav tbody tr')]"
#: What a result shows: the source of its frame or picture, once it is there.
VIEW = """(() => {
    const frame = document.querySelector('iframe');
    const drawn = [...document.querySelectorAll('img')].find(each => each.naturalWidth > 300);
    return frame?.src ?? (drawn?.complete ? drawn.src : '');
})()"""


@pytest.fixture(scope="module")
def report(smoke, tmp_path_factory):
    copy = smoke.copy(tmp_path_factory.mktemp("report") / "project")
    copy.snakemake("--cores", "1", "--report", "report.html")
    return copy.folder / "report.html"


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
            # One topic alone is opened with its category.
            if len(topics) > 1:
                click(browser, topic)
            browser.wait(f"{ROWS}.length === {len(paths)}")
            labels = browser.run(f"{ROWS}.map(row => row.cells[0].innerText.trim())")
            yield category, topic, labels


def caption(path):
    """What the project says about a result of the report."""
    kind, name = path.split("/")[2], path.split("/")[-1].split(".")[0]
    if kind in ("costs", "findings_text.html"):
        return (REPOSITORY / "workflow" / "report" / f"{kind.split('_')[0]}.rst").read_text()
    return {"tables": TABLES, "figures": FIGURES}[kind][name].caption.format(family="minilm")


def plain(text):
    """Words alone, for what a page breaks into other lines."""
    return " ".join(text.replace("`", "").split())


def picture(browser, path):
    """A screenshot of what the report shows, once the browser has drawn it."""
    end = time.monotonic() + WAIT
    while True:
        browser.screenshot(path)
        if imread(path)[:, 600:, :3].std() > 0.02:  # Right of the menu.
            return
        assert time.monotonic() < end, f"{path} is blank"
        time.sleep(0.1)


def test_the_front_page_has_title_figure_findings_and_rules_below_each_other(browser):
    parts = (".document h1.title", ".main-figure svg", ".findings h2", ".vega-embed svg")
    found = [f"document.querySelector({json.dumps(part)})" for part in parts]
    browser.wait(f"[{','.join(found)}].every(Boolean)")
    # Above the screen, the first could not be scrolled to.
    tops = [0, *(browser.run(f"{part}.getBoundingClientRect().top") for part in found)]
    assert tops == sorted(tops)
    # There is no second title.
    assert browser.run("document.querySelector('.findings h1').offsetParent") is None


def test_every_table_and_figure_is_listed_and_opens_and_none_is_empty(smoke, browser, tmp_path):
    seen, shots = set(), tmp_path / "screenshots"
    shots.mkdir()
    for category, topic, labels in listed(browser):
        for at, label in enumerate(labels):
            before = browser.run(VIEW)
            browser.run(f"{ROWS}[{at}].querySelectorAll('a')[0].click()")
            browser.wait(f"{VIEW} !== {json.dumps(before)}")
            if category == "Tables" or label == "table":
                page = "atob(document.querySelector('iframe').src.split(',')[1])"
                parse = f"new DOMParser().parseFromString({page}, 'text/html')"
                assert browser.run(f"{parse}.querySelectorAll('tbody tr').length"), label
            picture(browser, shots / f"{category}-{topic}-{label}.png")
            seen.add((category, topic, label))
    results = smoke.folder / "results" / "smoke"
    tables = {path.stem for path in (results / "tables").glob("*.html")}
    figures = {path.stem for path in (results / "figures" / "minilm").glob("*.svg")}
    assert tables
    assert figures
    assert seen == {
        *(("Tables", TABLES[name].topic, name) for name in tables),
        *(("Figures", "minilm", name) for name in figures),
        *(("Costs", "Other", name) for name in ("table", "figure")),
        ("Findings", "Other", "in words"),
    }


def test_the_caption_of_every_table_and_figure_says_what_it_shows(browser):
    texts = "(html => new DOMParser().parseFromString(html, 'text/html').body.innerText)"
    captions = browser.run(
        f"Object.entries(results).map(([path, each]) => [path, {texts}(each.caption)])"
    )
    assert captions
    for path, shown in captions:
        assert plain(shown) == plain(caption(path))


def test_the_information_of_a_result_opens_with_its_caption(browser):
    category, topic, labels = next(entry for entry in listed(browser) if entry[0] == "Tables")
    (path,) = [
        path
        for path in browser.run(f"categories[{json.dumps(category)}][{json.dumps(topic)}]")
        if path.endswith(f"/{labels[0]}.html")
    ]
    browser.run(f"{ROWS}[0].querySelectorAll('a')[1].click()")
    start = plain(caption(path))[:30]
    browser.wait(f"document.querySelector('nav').innerText.includes({json.dumps(start)})")
