"""The study of embeddings in the plan: nothing but its own jobs is added where it is asked for."""

import pytest
from project import job_counts

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize(
    ("config", "line", "more", "jobs"),
    [
        ("smoke", "encoders:\n", "  similarity: {}\n", {"similarity": 2}),
        (
            "config",
            "decoders:\n",
            "  similarity: {examples: 4}\n",
            {"decoder_similarity": 3},
        ),
    ],
    ids=["encoders", "decoders"],
)
def test_similarity_adds_only_its_own_jobs(project, config, line, more, jobs):
    study = project(f"config/{config}.yaml")
    without = study.planned()
    study.edit(f"config/{config}.yaml", line, line + more)
    asked = study.planned()
    asked.subtract(without)
    assert {rule: n for rule, n in asked.items() if n} == {**jobs, "table": 2, "figure": 1}


def test_costs_wait_for_the_jobs_of_the_similarity(project):
    smoke = project("config/smoke.yaml")
    smoke.edit("config/smoke.yaml", "rates: [0, 0.9]", "rates: [0, 0.9]\n  similarity: {}")
    planned = job_counts(smoke.snakemake("--dry-run", "results/smoke/costs/costs.csv"))
    assert planned["similarity"] == 2
