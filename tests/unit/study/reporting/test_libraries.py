"""Notes below tables that mix versions of libraries."""

import json
from pathlib import Path

import pandas as pd

from mergegrid.study.reporting.files import write_table
from mergegrid.study.reporting.libraries import mixed_libraries, table_notes
from mergegrid.study.reporting.summary import library_warnings
from mergegrid.study.schema.loading import read_study

ROOT = Path(__file__).parents[4]


def scores(*libraries):
    return pd.DataFrame({"libraries": [json.dumps(versions) for versions in libraries]})


def test_scores_with_one_version_per_library_have_no_note():
    same = {"python": ["3.11.2"], "torch": ["2.13.0"]}
    assert mixed_libraries(scores(same, same, {"math-verify": ["0.9.0"]})) == []


def test_a_library_with_several_versions_is_listed_with_counts():
    old, new = {"torch": ["2.13.0"], "numpy": ["2.3.5"]}, {"torch": ["2.14.0"], "numpy": ["2.3.5"]}
    (note,) = mixed_libraries(scores(old, old, new))
    assert "several versions of torch: 2.13.0 (2 scores), 2.14.0 (1 score)" in note


def test_a_score_whose_inputs_differ_in_versions_is_mixed():
    assert len(mixed_libraries(scores({"torch": ["2.13.0", "2.14.0"]}))) == 1


def test_minor_versions_of_python_matter_and_patches_do_not():
    assert mixed_libraries(scores({"python": ["3.11.2"]}, {"python": ["3.11.7"]})) == []
    assert mixed_libraries(scores({"python": ["3.11.2"]}, {"python": ["3.12.2"]})) != []


def test_the_note_is_below_the_table_and_in_the_latex_caption(tmp_path):
    scores({"torch": ["2.13.0"]}, {"torch": ["2.14.0"]}).to_parquet(tmp_path / "scores.parquet")
    notes = table_notes([tmp_path / "scores.parquet"])
    paths = [tmp_path / f"table.{kind}" for kind in ("csv", "md", "html", "tex")]
    write_table(pd.DataFrame({"value": [1.0]}), *paths, "A caption.", notes)
    for path in paths[1:]:
        assert "several versions of torch" in path.read_text()
    assert paths[0].read_text() == "value\n1\n"


def test_tables_without_scores_have_no_note():
    assert table_notes([]) == []


def test_checking_a_study_warns_of_mixed_and_of_old_results(tmp_path, monkeypatch):
    study = read_study(ROOT / "config" / "smoke.yaml")
    monkeypatch.chdir(tmp_path)
    assert library_warnings(study) == []
    path = tmp_path / study.paths.results / "scores.parquet"
    path.parent.mkdir(parents=True)
    scores({"torch": ["2.13.0"]}, {"torch": ["2.14.0"]}).to_parquet(path)
    (line,) = library_warnings(study)
    assert "scores.parquet: Scores were computed with several versions of torch" in line
    pd.DataFrame({"value": [1.0]}).to_parquet(path)
    (line,) = library_warnings(study)
    assert "earlier version" in line
