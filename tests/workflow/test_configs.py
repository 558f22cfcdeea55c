"""Every shipped configuration as a plan, and wrong ones as Snakemake shows them."""

import csv
from math import comb

import pytest
import yaml
from project import REPOSITORY

from mergegrid.study.reporting.catalogue import FIGURES, TABLES


def test_the_study_of_the_paper_is_planned_without_a_download(project, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("MERGEGRID_CACHE", str(tmp_path / "cache"))
    paper = project("config/paper_encoders.yaml")
    content = yaml.safe_load((paper.folder / "config" / "paper_encoders.yaml").read_text())
    study = content["encoders"]
    tasks, families = study["tasks"], study["families"]
    # Published experts are there already: one for each task, whatever the seed.
    models = {
        name: [expert.get("source") for expert in family["experts"].values()]
        for name, family in families.items()
    }
    seeds = {
        name: 1 if all(sources) else len(study["seeds"]["training"])
        for name, sources in models.items()
    }
    experts = sum(seeds[name] * len(sources) for name, sources in models.items())
    pairs = sum(seeds[name] * comb(len(sources), 2) for name, sources in models.items())
    assert (len(tasks), set(map(len, models.values())), list(seeds.values())) == (8, {8}, [5, 5, 1])
    ready = sum(source is not None for sources in models.values() for source in sources)
    assert paper.planned() == {
        "fetch": 2 * len(tasks) + len(families) + ready,
        "prepare": len(tasks),
        "import_base": len(families),
        **dict.fromkeys(("expert", "deltas", "statistics", "sweep", "similarity"), experts),
        **dict.fromkeys(("merges", "oracle", "oracle_scores"), pairs),
        **dict.fromkeys(("scores", "comparisons", "ranking", "costs", "all"), 1),
        **dict.fromkeys(("findings", "findings_text"), 1),
        # Single scores are published of decoders alone; of encoders, changes over pairs.
        "table": len(
            TABLES.keys() - {"answers", "benchmarks", "decoders", "forgetting", "published"}
        ),
        # The length of answers is measured of decoders alone.
        "figure": len(FIGURES.keys() - {"pareto"}) * len(families),
    }
    assert not (tmp_path / "hub").exists()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("name", "encoder_sets", "decoder_sets"),
    [("config", [2, 2, 4], [3]), ("quickstart_full", [*6 * [2], 4], [2, 3])],
)
def test_the_quickstart_is_planned(project, name, encoder_sets, decoder_sets):
    planned = project(f"config/{name}.yaml").planned()
    assert planned["expert"] == planned["sweep"] == planned["prepare"] == 4
    assert planned["merges"] == len(encoder_sets)
    assert planned["decoder"] == planned["questions"] == planned["instructions"] == 3
    # One engine for each expert and each set; each benchmark once for each that has it.
    assert sum(rule.startswith("generate") for rule in planned) == 3 + len(decoder_sets)
    assert planned["score"] == 3 + sum(decoder_sets)


#: Rules that do the work of a study; those of tables and figures are left out.
WORK = {
    *("fetch", "prepare", "questions", "import_base", "import_decoder", "expert", "decoder"),
    *("deltas", "statistics", "sweep", "merges", "merge", "generate", "harness", "score"),
}


def public_studies():
    with (REPOSITORY / "resources" / "public_studies.csv").open() as lines:
        return [row for row in csv.DictReader(lines) if row["config"]]


@pytest.mark.parametrize("study", public_studies(), ids=lambda row: row["config"])
def test_a_public_study_has_the_jobs_that_the_docs_say(project, study, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("MERGEGRID_CACHE", str(tmp_path / "cache"))
    planned = project(f"config/{study['config']}").planned()
    assert sum(planned[rule] for rule in WORK) == int(study["jobs"])
    assert not (tmp_path / "hub").exists()
    assert not (tmp_path / "cache").exists()


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
        ("spam: {}", "spam: {}\n        ham: {}", "experts.ham refers to task 'ham', which is"),
        (
            "    spam:\n      text",
            "    spam:\n      text: [x]\n      text",
            "duplicate key 'text'",
        ),
        ("encoders:\n", "rates: [0.5]\nencoders:\n", "`rates` has moved to `encoders.rates`"),
    ],
)
def test_a_wrong_configuration_stops_before_anything_runs(project, old, new, message):
    smoke = project("config/smoke.yaml")
    smoke.edit("config/smoke.yaml", old, new)
    printed = smoke.snakemake("--cores", "1", check=False)
    assert message in printed
    assert "Traceback" not in printed
    assert not (smoke.folder / "results").exists()
