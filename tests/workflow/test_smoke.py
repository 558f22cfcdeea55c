"""The smoke study for real: a real encoder, real data, every stage, twice."""

import re

import pandas as pd
import pytest

from mergegrid.study.scoring.scores import COLUMNS

pytestmark = pytest.mark.workflow

# What is made from scores of merges, directly or through comparisons, findings and the ranking.
REPORT = {
    **{"all": 1, "scores": 1, "comparisons": 1, "ranking": 1, "costs": 1},
    **{"findings": 1, "findings_text": 1},
    **{"table": 10 + 2 + 1 + 1, "figure": 3},
}
# And from those of single experts.
SWEPT = {**REPORT, "figure": 4}
EXPERT = {"config.json", "manifest.json", "model.safetensors", "training.json"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
TABLES = {
    "against_experts",
    "comparison_summary",
    "comparisons",
    "delta_deciles",
    "delta_ranges",
    "drop_rates",
    "drop_rates_wide",
    "experts",
    "findings",
    "merge_candidates",
    "merges",
    "merges_wide",
    "pairs",
    "ranking",
    "selection",
    "sources",
    "sparsifier_effects",
    "success_rates",
}
FIGURES = {"delta_histograms", "deltas", "drop_rates", "merges", "pairs", "ranking"}
KINDS = ("csv", "md", "html", "tex")
PICTURES = ("svg", "png")
COSTS = "results/smoke/costs/costs.csv"


def files(folder):
    """All files but the mark that Snakemake leaves in folders."""
    found = {path for path in folder.rglob("*") if path.is_file()}
    return {
        path.relative_to(folder).as_posix() for path in found if path.name != ".snakemake_timestamp"
    }


def test_every_stage_runs_once(first_run):
    jobs = re.findall(r"^(?:local)?rule (\w+):", first_run, re.MULTILINE)
    assert {rule: jobs.count(rule) for rule in jobs} == {
        "fetch": 4,
        "prepare": 2,
        "import_base": 1,
        "expert": 2,
        "deltas": 2,
        "sweep": 2,
        "merges": 1,
        "scores": 1,
        "comparisons": 1,
        "ranking": 1,
        "findings": 1,
        "findings_text": 1,
        "costs": 1,
        "table": len(TABLES),
        "figure": len(FIGURES),
        "all": 1,
    }


def test_a_person_sees_a_line_for_each_job_first_results_and_the_conclusion(shown, first_run):
    total = len(re.findall(r"^(?:local)?rule (\w+):", first_run, re.MULTILINE))
    lines = re.findall(rf"^\[\d+:\d\d\] \d+ of {total}  (.*)$", shown, re.MULTILINE)
    assert sum(not line.startswith("running: ") for line in lines) == 14 + 1
    assert re.search(r"expert trec of minilm, seed 0, \d+:\d\d; ", shown)
    assert f"tables and figures, all {total - 14}" in shown
    assert re.search(r"trec of minilm alone: 0\.\d+ accuracy, base 0\.\d+; at 0\.9 dare 0\.", shown)
    assert re.search(r"spam\+trec of minilm merged: best of 6: ", shown)
    end = shown[shown.index("\nFindings:\n") :]
    assert re.search(r"^    - On spam \+ trec, .* leads with", end, re.MULTILINE)
    assert "results/smoke/findings.md" in end
    assert "results/smoke/tables/merges_wide.md" in end
    assert "  mergegrid summary config/smoke.yaml" in end.splitlines()
    assert not re.search(r"^(?:local)?rule ", shown, re.MULTILINE)


def test_a_second_run_does_nothing(smoke_copy):
    assert "Nothing to be done" in smoke_copy.snakemake("--cores", "2")


def test_results_are_exactly_these_files(smoke):
    results = smoke.folder / "results" / "smoke"
    models = {f"minilm/base/{name}" for name in (EXPERT | TOKENIZER) - {"training.json"}}
    for expert in ("trec", "spam"):
        models |= {f"minilm/experts/{expert}/seed~0/{name}" for name in EXPERT | TOKENIZER}
    scores = {"scores.parquet", "comparisons.parquet", "ranking.parquet"}
    scores |= {"findings.parquet", "findings.md", "findings_text.html"}
    scores |= {
        f"minilm/predictions/{name}/seed~0.parquet" for name in ("trec", "spam", "trec+spam")
    }
    for job in ("sweeps/trec", "sweeps/spam", "merges/trec+spam"):
        scores |= {f"minilm/{job}/seed~0.{kind}" for kind in ("parquet", "store.jsonl")}
    scores.add("minilm/merges/trec+spam/seed~0.outcomes.jsonl")
    assert files(results) == models | scores | {
        "sources/base~minilm.json",
        "sources/task~spam~train.json",
        "sources/task~trec~test.json",
        "sources/task~trec~train.json",
        "tasks/spam.parquet",
        "tasks/trec.parquet",
        "minilm/deltas/spam/seed~0.parquet",
        "minilm/deltas/trec/seed~0.parquet",
        *(f"tables/{table}.{kind}" for table in TABLES for kind in KINDS),
        *(f"figures/minilm/{figure}.{kind}" for figure in FIGURES for kind in PICTURES),
        *(f"costs/costs.{kind}" for kind in ("parquet", *KINDS, *PICTURES)),
    }


def test_scores_have_the_documented_columns_and_no_gap(smoke):
    scores = pd.read_parquet(smoke.folder / "results" / "smoke" / "scores.parquet")
    assert {name: str(kind) for name, kind in scores.dtypes.items()} == {
        name: kind for name, (kind, _) in COLUMNS.items()
    }
    assert scores.drop(columns="mask_seed").notna().all().all()
    assert not scores.duplicated(["recipe_digest", "study", "task", "split"]).any()


@pytest.mark.parametrize("task", ["trec", "spam"])
def test_dare_at_90_percent_stays_near_the_expert_and_drop_only_does_not(smoke, task):
    scores = pd.read_parquet(smoke.folder / "results" / "smoke" / "scores.parquet")
    sweep = scores[(scores["study"] == "sweep") & (scores["task"] == task)]
    value = sweep.set_index(["sparsifier", "rate"])["value"]
    expert, base = value["none", 0], value["drop_only", 1]
    assert expert > base + 0.3
    assert value["dare", 0.9] > expert - 0.1
    assert value["drop_only", 0.9] < expert - 0.3


def test_one_more_rate_runs_only_what_depends_on_it(smoke_copy):
    smoke_copy.edit("config/smoke.yaml", "rates: [0, 0.9]", "rates: [0, 0.5, 0.9]")
    assert smoke_copy.planned() == {"sweep": 2, **SWEPT}


def test_one_more_mask_seed_runs_only_what_depends_on_it(smoke_copy):
    smoke_copy.edit("config/smoke.yaml", "mask: [0]", "mask: [0, 1]")
    assert smoke_copy.planned() == {"sweep": 2, "merges": 1, **SWEPT}


def test_one_more_method_runs_only_what_depends_on_it(smoke_copy):
    smoke_copy.edit("config/smoke.yaml", "{kind: ties}", "{kind: ties, trim: [0.8, 0.9]}")
    assert smoke_copy.planned() == {"merges": 1, **REPORT}


def test_a_licence_changes_the_table_of_sources_and_no_number(smoke_copy):
    smoke_copy.edit("config/smoke.yaml", "model: Apache-2.0", "model: Apache 2.0")
    assert smoke_copy.planned() == {"table": 1, "all": 1}


def test_a_changed_comment_in_a_script_or_rule_runs_nothing(smoke_copy):
    for name in ("workflow/scripts/sweep.py", "workflow/rules/sweep.smk", "config/smoke.yaml"):
        path = smoke_copy.folder / name
        path.write_text(path.read_text() + "\n# A comment.\n")
    assert smoke_copy.planned() == {}


def test_a_changed_statement_in_a_script_runs_nothing(smoke_copy):
    path = smoke_copy.folder / "workflow" / "scripts" / "merges.py"
    path.write_text(path.read_text() + "\nprint(1)\n")
    assert smoke_copy.planned() == {}


def test_touched_files_run_nothing(smoke_copy):
    for part in ("workflow", "config"):
        for path in (smoke_copy.folder / part).rglob("*"):
            path.touch()
    (smoke_copy.folder / "results/smoke/tasks/trec.parquet").touch()
    assert smoke_copy.planned() == {}


def test_findings_are_sentences_with_evidence_and_limits(smoke):
    results = smoke.folder / "results" / "smoke"
    findings = pd.read_parquet(results / "findings.parquet")
    # Two methods beside average; four sparsifiers at one rate.
    assert findings["kind"].value_counts().to_dict() == {
        **{"best": 1, "experts": 1, "sparsifier": 3, "drop_rate": 4},
    }
    text = (results / "findings.md").read_text()
    assert text.count("paired t test, p") >= 5
    assert "Drop only: at 0.9 the experts are" in text
    assert "one set was merged, spam + trec" in text
    assert "there is one training seed" in text
    assert "All jobs together took" in text


def test_the_report_opens_with_the_findings_and_shows_every_table_and_figure(smoke_copy):
    smoke_copy.snakemake("--cores", "1", "--report", "report.html")
    report = (smoke_copy.folder / "report.html").read_text()
    assert "<h1>Findings: Smoke test: MiniLM on two tasks</h1>" in report.replace("\\/", "/")
    for table in TABLES:
        assert f"tables/{table}.html" in report
    for figure in FIGURES:
        assert f"figures/minilm/{figure}.svg" in report
    assert "bands span the smallest to the largest value" in report
    assert "Smoke test: MiniLM on two tasks" in report


def test_costs_compare_with_what_was_asked_on_the_command_line(smoke, smoke_copy):
    asked = ("sweep:mem_mb=attempt * 900", "merges:mem_mb=max(800, input.size_mb)")
    smoke_copy.snakemake("--cores", "1", "--set-resources", *asked, "--", COSTS)
    before, after = (
        pd.read_csv(each.folder / COSTS, index_col="rule") for each in (smoke, smoke_copy)
    )
    assert after.loc["sweep", "asked_memory_mb"] == 900
    # It differs between jobs.
    assert pd.isna(after.loc["merges", "asked_memory_mb"])
    assert before[["jobs", "hours"]].equals(after[["jobs", "hours"]])


def test_only_the_end_of_a_job_makes_the_scheduler_look_for_others(smoke_copy):
    printed = smoke_copy.snakemake("--cores", "1", "--verbose", "--forcerun", "costs", "--", COSTS)
    left = re.findall(r"Resources after job selection: .*'_job_count': (\d+)", printed)
    assert left
    assert min(map(int, left)) > 1e6, (
        "jobs are started so many at a time, and looked for by the clock"
    )


def test_a_ready_expert_is_taken_as_it_is(smoke_copy):
    ready = "{task: trec, source: {source: path:results/smoke/minilm/experts/trec/seed~0}}"
    smoke_copy.edit("config/smoke.yaml", "spam: {}", f"spam: {{}}\n        ready: {ready}")
    results = smoke_copy.folder / "results" / "smoke" / "minilm"
    smoke_copy.snakemake("--cores", "2", "results/smoke/minilm/experts/ready/seed~0")
    ours, theirs = (results / "experts" / name / "seed~0" for name in ("ready", "trec"))
    name = "model.safetensors"
    assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_one_more_mask_seed_scores_only_the_new_candidates(smoke_copy):
    before = pd.read_parquet(smoke_copy.folder / "results/smoke/scores.parquet")
    smoke_copy.edit("config/smoke.yaml", "mask: [0]", "mask: [0, 1]")
    smoke_copy.snakemake("--cores", "2", "--", "results/smoke/scores.parquet")
    log = (smoke_copy.folder / "logs/smoke/sweep/minilm/trec/seed~0.log").read_text()
    # New: dare, drop_only and masked_finetuned at 0.9 with seed 1.
    assert "9 recipes, 3 to score" in log
    after = pd.read_parquet(smoke_copy.folder / "results/smoke/scores.parquet")
    old = after[after["mask_seed"].isna() | (after["mask_seed"] == 0)].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, before)
    assert len(after) > len(before)
