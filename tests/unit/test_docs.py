"""The docs name what there is, all of it, and nothing else."""

import ast
import csv
import importlib.util
import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from mergegrid.methods import METHODS
from mergegrid.sparsifiers import SPARSIFIERS
from mergegrid.study.reporting import documentation, published_documentation
from mergegrid.study.reporting.catalogue import FIGURES, TABLES
from mergegrid.study.reporting.results import Results
from mergegrid.study.schema.documentation import SCHEMAS
from mergegrid.study.schema.method_documentation import methods_text
from mergegrid.study.schema.published import read_published
from mergegrid.study.scoring.scores import COLUMNS, RACING_COLUMNS, score_frame

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PUBLISHED = ROOT / "resources" / "published.csv"
MEASURED = ROOT / "resources" / "measured.csv"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results", documentation.results_text),
        ("published", lambda: published_documentation.published_text(ROOT)),
        ("public_studies", lambda: published_documentation.public_studies_text(ROOT)),
        ("methods", lambda: methods_text(DOCS)),
    ],
)
def test_the_generated_docs_are_current(name, text):
    assert (DOCS / f"{name}.md").read_text() == text(), "run `mergegrid docs`"


def test_every_method_and_sparsifier_has_a_picture_unless_it_needs_model_statistics():
    drawn = {path.stem for path in (DOCS / "figures" / "methods").glob("*.png")}
    with_statistics = {kind for kind, method in METHODS.items() if method.needs_statistics}
    shipped = {
        kind
        for kind, settings in {**SPARSIFIERS, **METHODS}.items()
        if settings.__module__.startswith("mergegrid.")
    }
    assert drawn == shipped - with_statistics, "run `python docs/make_pictures.py`"


def test_every_column_table_and_figure_is_in_the_docs():
    text = (DOCS / "results.md").read_text()
    scores = text[text.index("## Scores") : text.index("## Tables")]
    assert re.findall(r"^\| `(\w+)` \|", scores, re.MULTILINE) == [
        *COLUMNS,
        *RACING_COLUMNS,
    ]
    tables = text[text.index("## Tables") : text.index("## Figures")]
    assert re.findall(r"^### (\w+)$", tables, re.MULTILINE) == list(TABLES)
    figures = text[text.index("## Figures") :]
    assert re.findall(r"^\| `(\w+)` \|", figures, re.MULTILINE) == list(FIGURES)


FROM_SCORES = [name for name, spec in TABLES.items() if spec.needs == "scores"]


@pytest.mark.parametrize("name", FROM_SCORES)
def test_every_table_has_the_columns_that_are_described(name, tmp_path):
    path = tmp_path / "scores.parquet"
    scores = score_frame([])
    scores.to_parquet(path)
    made = TABLES[name].make(Results(scores=[path]))
    described = [column for column in TABLES[name].columns if not column.startswith("<")]
    assert [column for column in made.columns if column in described] == list(made.columns)
    assert set(described) <= set(made.columns)


def test_every_meaning_is_one_line_that_says_something():
    for spec in TABLES.values():
        assert spec.caption.endswith(".")
        for column, meaning in spec.columns.items():
            assert meaning.strip(), column
            assert "\n" not in meaning


def test_files_and_headings_that_the_docs_link_to_exist():
    for page in (ROOT / "README.md", ROOT / "config" / "README.md", *sorted(DOCS.glob("*.md"))):
        for link, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
            target = page.parent / link if link else page
            assert target.exists(), f"{page.name} links to {link}"
            if heading:
                titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                anchors = [
                    re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
                ]
                assert heading in anchors, f"{page.name} links to {link}#{heading}"


def test_tests_that_the_docs_name_exist():
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))):
        if page.name == "architecture.md":
            continue
        named = set(re.findall(r"\btest_\w+\.py", page.read_text()))
        assert named <= tests, f"{page.name}: {named - tests}"


@pytest.fixture
def make_readme(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    spec = importlib.util.spec_from_file_location("make_readme", DOCS / "make_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "docs").mkdir()
    for page in module.pages():
        copy = tmp_path / page.relative_to(ROOT)
        copy.write_text(page.read_text())
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def test_every_generated_part_has_its_markers_on_one_page(make_readme):
    returned = [
        node.value
        for node in ast.walk(ast.parse((DOCS / "study_parts.py").read_text()))
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Dict)
    ]
    parts = [key.value for each in returned for key in each.keys if isinstance(key, ast.Constant)]
    assert {"merges", "chosen factors", "lambda sweep"} <= set(parts)
    parts += make_readme.BENCHMARKS
    parts += ["rule graph", "pairs benchmark", "merge in short", "racing", "ranking and racing"]
    text = "".join(page.read_text() for page in make_readme.pages())
    assert len(set(parts)) >= 12
    for name in parts:
        assert text.count(f"<!-- begin: {name} -->") == text.count(f"<!-- end: {name} -->") == 1


def test_generated_parts_are_replaced_and_nothing_else(make_readme):
    before = {page: page.read_text() for page in make_readme.pages()}
    make_readme.fill({"merges": "a new\\1 table", "glue times": "other times"})
    after = {page: page.read_text() for page in make_readme.pages()}
    changed = {page.name for page in before if before[page] != after[page]}
    assert changed == {"results_quickstart.md", "results_glue.md"}
    page = after[make_readme.ROOT / "docs" / "results_quickstart.md"]
    assert "<!-- begin: merges -->\na new\\1 table\n<!-- end: merges -->\n" in page
    original = (DOCS / "results_quickstart.md").read_text()
    assert page.partition("<!-- begin: merges")[0] == original.partition("<!-- begin: merges")[0]
    assert page.partition("<!-- end: merges")[2] == original.partition("<!-- end: merges")[2]


def test_the_measurement_in_the_readme_is_that_of_the_benchmark(make_readme):
    speed = (DOCS / "speed.md").read_text()
    readme = (ROOT / "README.md").read_text()
    assert make_readme.merge_in_short(speed) in readme, "run `make docs`"
    table = (
        "<!-- begin: merge benchmark -->\n"
        "| Merge | Wall, s | CPU, s | Peak, MB | mergekit: wall, s | CPU, s | Peak, MB |\n"
        "|:--|:--|:--|:--|:--|:--|:--|\n| dare | 1.5 | 2 | 3 | 14 | 25 | 36 |\n\n"
        "- cores: 8\n- mergekit: 0.1.9\n"
    )
    short = " ".join(make_readme.merge_in_short(table).split())
    assert "on 8 CPU cores: 1.5 s, 2 s of CPU time and 3 MB of memory" in short
    assert "mergekit 0.1.9: 14 s, 25 s and 36 MB" in short


def test_a_part_without_markers_is_an_error_and_changes_nothing(make_readme):
    before = [page.read_text() for page in make_readme.pages()]
    with pytest.raises(SystemExit, match="nowhere"):
        make_readme.fill({"merges": "new", "nowhere": "new"})
    assert [page.read_text() for page in make_readme.pages()] == before


def test_the_guide_to_clusters_names_every_rule_that_holds_a_gpu():
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    holding = re.findall(r"^rule (\w+):(?:(?!^rule ).)*?^        gpu=", rules, re.M | re.S)
    guide = " ".join((DOCS / "cluster.md").read_text().split())
    said = re.search(r"The rules that hold a GPU are (.*?)\. ", guide)[1]
    assert sorted(re.findall(r"`(\w+)`", said)) == sorted(holding)


def test_the_executor_of_slurm_sends_what_the_guide_says():
    utils = pytest.importorskip("snakemake_executor_plugin_slurm.utils")
    job = SimpleNamespace(resources=Resources(gpu=1, gres="gpu:a100:1"))
    assert utils.set_gres_string(job).split() == ["--gres=gpu:a100:1", "--gpus=1"]
    job = SimpleNamespace(resources=Resources(gpu=1, gpu_model="a100"))
    assert utils.set_gres_string(job).split() == ["--gpus=a100:1"]


class Resources(dict):
    """As Snakemake's: values by name, as items and as attributes."""

    __getattr__ = dict.__getitem__


def test_every_key_of_the_configuration_is_in_its_reference():
    reference = (ROOT / "config" / "README.md").read_text()
    for model in SCHEMAS.values():
        schema = model.model_json_schema()
        for part in [schema, *schema.get("$defs", {}).values()]:
            for key in part.get("properties", {}):
                assert f"| `{key}` |" in reference, f"{key}: run `mergegrid docs`"


def test_every_published_group_says_whether_it_can_be_measured_again():
    with MEASURED.open() as lines:
        rows = list(csv.DictReader(lines))
    groups = [row["table"] for row in rows if not row["dataset"]]
    assert sorted(groups) == sorted({cell.table for cell in read_published(PUBLISHED)})
    for row in rows:
        assert row["can_be_measured"] in ("yes", "in part", "no")
        assert not row["config"] or (ROOT / "config" / row["config"]).is_file()
        assert not row["result"] or row["result"] in TABLES


PAPER = {
    *("decoder_merge", "drop_finetuned", "drop_rate", "embedding_similarity", "glue_merge_gain"),
    *("leaderboard", "magnitude_rescaled", "table", "wrong_base"),
}


def test_no_published_number_is_from_memory_and_every_one_has_its_source():
    frame = pd.read_csv(PUBLISHED)
    assert set(frame["trust"]) == {"card", "doubtful", "figure", "high", "log"}
    paper = frame["table"].isin(PAPER)
    assert frame.loc[paper, "source"].str.startswith("arXiv 2311.03099v3, ").all()
    # A table of another paper, a repository and a file in it, or a page of the hub.
    others = r"arXiv \d{4}\.\d{5}, Table \d|[\w.-]+/[\w.-]+: \w|hub card \w+/"
    assert frame.loc[~paper, "source"].str.match(others).all()
    doubtful = frame.loc[frame["trust"] == "doubtful", "source"]
    assert doubtful.str.contains("nothing is dropped|mean of 78.2 fits 80.5").all()
    columns = ["models", "method", "sparsifier", "rate", "scale", "rescale"]
    assert not frame.duplicated([*columns, "dataset", "metric", "source"]).any()
    assert all(cell.trust != "doubtful" for cell in read_published(PUBLISHED))


def test_every_public_study_is_listed_and_nothing_else():
    with (ROOT / "resources" / "public_studies.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    listed = {row["config"] for row in rows if row["config"]}
    assert listed == {f"public/{path.name}" for path in (ROOT / "config" / "public").glob("*")}
    for row in rows:
        assert bool(row["config"]) == bool(row["jobs"]) == (not row["why"])


def test_a_recorded_run_is_a_few_screens_without_folders_of_the_machine():
    recorder = runpy.run_path(str(DOCS / "make_cast.py"))
    events = [(second / 10, f"line {second} of {ROOT}\r\n") for second in range(1000)]
    header, *screens = map(json.loads, recorder["cast"](("mergegrid", "run"), events).splitlines())
    assert (header["width"], header["height"]) == (recorder["COLUMNS"], recorder["LINES"])
    assert len(screens) <= recorder["SCREENS"] + 2  # Before all, and the rest at the end.
    times = [time for time, _, _ in screens]
    assert times == sorted(times)
    assert times[-1] == recorder["SECONDS"] + recorder["REST"]
    text = "".join(text for _, _, text in screens)
    assert text.startswith("$ mergegrid run\r\n")
    assert text.count("line ") == len(events)
    assert str(ROOT) not in text
    drawn = (DOCS / "figures" / "run.svg").read_text()
    assert "Findings" in drawn
    assert re.findall(r">/\w+/[^<]*", drawn) == []
