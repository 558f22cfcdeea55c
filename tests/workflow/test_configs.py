"""Every shipped configuration as a plan, and wrong ones as Snakemake shows them."""

import pytest


def test_the_glue_study_is_planned_without_a_download(project, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("MERGEGRID_CACHE", str(tmp_path / "cache"))
    glue = project("config/paper_encoders.yaml")
    experts, pairs = 2 * 8, 2 * 8 * 7 // 2
    assert glue.planned() == {
        "fetch": 8 * 2 + 2,
        "prepare": 8,
        "import_base": 2,
        "expert": experts,
        "deltas": experts,
        "sweep": experts,
        "merges": pairs,
        "scores": 1,
        "table": 8,
        "figure": 2 * 3,
        "all": 1,
    }
    assert not (tmp_path / "hub").exists()
    assert not (tmp_path / "cache").exists()


def test_the_quickstart_is_planned(project):
    planned = project("config/config.yaml").planned()
    assert planned["expert"] == planned["sweep"] == planned["prepare"] == 4
    assert planned["merges"] == 6 + 1
    assert planned["decoder"] == planned["questions"] == planned["instructions"] == 3
    # One engine for each expert and each of two sets; each benchmark once for each that has it.
    assert sum(rule.startswith("generate") for rule in planned) == 3 + 2
    assert planned["score"] == 3 + 2 + 3


def test_the_quickstart_and_the_default_profile_are_found_by_themselves(project):
    quickstart = project("config/config.yaml")
    assert quickstart.planned(named=False) == quickstart.planned()
    printed = quickstart.snakemake("--dry-run", named=False)
    assert "Using workflow specific profile profiles/default" in printed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rates: [0, 0.9]", "rates: [0, 1.9]", "rates.1 = 1.9: Input should be less than or equal"),
        (
            "metric: accuracy",
            "metrc: accuracy",
            "tasks.trec.metrc is not a known key; did you mean",
        ),
        ("spam: {}", "spam: {}\n      ham: {}", "experts.ham wants task 'ham', which is not among"),
        ("  spam:\n    text", "  spam:\n    text: [x]\n    text", "key 'text' is written twice"),
    ],
)
def test_a_wrong_configuration_stops_before_anything_runs(project, old, new, message):
    smoke = project("config/smoke.yaml")
    smoke.edit("config/smoke.yaml", old, new)
    printed = smoke.snakemake("--cores", "1", check=False)
    assert message in printed
    assert "Traceback" not in printed
    assert not (smoke.folder / "results").exists()
