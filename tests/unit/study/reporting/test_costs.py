"""Costs from files of measurements as Snakemake and the jobs write them."""

import re
from pathlib import Path

import pandas as pd
import pytest

from mergegrid.study.reporting.costs import STAGES, cost_table, costs_figure, job_costs
from mergegrid.study.reporting.summary import stage_times

RULES = Path(__file__).parents[4] / "workflow" / "rules"
HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def measure(logs, name, seconds, memory, cpu):
    file = logs / "benchmarks" / f"{name}.tsv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{HEAD}{seconds}\t0:00:00\t{memory}\t0\t0\t0\t0\t0\t0\t{cpu}\n")


@pytest.fixture
def logs(tmp_path):
    measure(tmp_path, "generate/llama/a", 3600, 2000, 1800)
    measure(tmp_path, "generate/llama/b", 7200, 4000, 7200)
    measure(tmp_path, "expert/bert/trec/seed~0", 1800, 500, 3600)
    # Too short to be measured.
    measure(tmp_path, "fetch/base", 0.1, "NA", "NA")
    used = tmp_path / "generate" / "llama" / "b.gpu.tsv"
    used.parent.mkdir(parents=True)
    used.write_text("gpus\tsamples\tmemory_mb\tload\n2\t100\t60000\t75.0\n")
    # The logs of another study, called benchmarks, lie in the same folder.
    other = tmp_path / "benchmarks" / "generate" / "llama" / "c.gpu.tsv"
    other.write_text("gpus\tsamples\tmemory_mb\tload\n2\t100\t60000\t75.0\n")
    return tmp_path


def test_jobs_are_listed_in_rule_order_with_their_gpus(logs):
    jobs = job_costs(logs)
    assert list(zip(jobs["rule"], jobs["job"], strict=True)) == [
        ("fetch", "base"),
        ("expert", "bert/trec/seed~0"),
        ("generate", "llama/a"),
        ("generate", "llama/b"),
    ]
    assert jobs["gpus"].fillna(0).tolist() == [0, 0, 0, 2]


def test_costs_of_a_rule_are_sums_and_largest_jobs(logs):
    table = cost_table(job_costs(logs), {"generate": 16000, "all": None}).set_index("rule")
    generate = table.loc["generate"]
    assert generate.drop("cores").to_dict() == {
        "jobs": 2,
        "hours": 3.0,
        "cpu_hours": 2.5,
        "max_memory_mb": 4000.0,
        "asked_memory_mb": 16000,
        "memory_used": 0.25,
        "gpu_hours": 4.0,
        "max_gpu_memory_mb": 60000.0,
        "gpu_load": 75.0,
    }
    assert table["cores"].dropna().round(3).to_dict() == {"expert": 2.0, "generate": 0.833}
    assert table.loc["expert", ["asked_memory_mb", "gpu_hours"]].isna().all()
    assert pd.isna(table.loc["fetch", "max_memory_mb"])


def test_the_figure_has_a_bar_per_rule(logs):
    axis = costs_figure(cost_table(job_costs(logs), {})).axes[0]
    words = [label.get_text() for label in axis.get_yticklabels()]
    assert words == ["fetch models and data", "fine-tune experts", "generate answers"]
    assert axis.get_xlabel() == "hours, added up over jobs"


def test_without_measurements_there_is_an_empty_table(tmp_path):
    table = cost_table(job_costs(tmp_path), {})
    assert table.empty
    costs_figure(table)
    assert stage_times(tmp_path).empty


def test_the_summary_has_the_same_times(logs):
    times = stage_times(logs).set_index("stage")
    assert times.loc["generate answers"].to_dict() == {
        "jobs": 2,
        "seconds": 10800,
        "cpu_seconds": 9000,
        "peak_mb": 4000,
    }


def test_every_rule_that_is_measured_is_a_stage():
    texts = [path.read_text() for path in RULES.glob("*.smk")]
    measured = {name for text in texts for name in re.findall(r"<logs>/benchmarks/(\w+)/", text)}
    assert measured == set(STAGES)
    # What a job notes of its GPUs is looked for beside its log.
    for rule in measured:
        assert any(f'"<logs>/{rule}/' in text for text in texts), rule
