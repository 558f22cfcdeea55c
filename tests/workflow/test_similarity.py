"""The study of embeddings in the plan: nothing but its own jobs is added where it is asked for."""

import pytest
from project import job_counts

pytestmark = pytest.mark.workflow


def test_similarity_of_encoders_adds_only_its_own_jobs(project):
    smoke = project("config/smoke.yaml")
    without = smoke.planned()
    smoke.edit("config/smoke.yaml", "rates: [0, 0.9]", "rates: [0, 0.9]\nsimilarity: {}")
    asked = smoke.planned()
    asked.subtract(without)
    assert {rule: more for rule, more in asked.items() if more} == {
        "similarity": 2,
        "table": 1,
        "figure": 1,
    }


def test_similarity_of_decoders_adds_only_its_own_jobs(project):
    quickstart = project("config/config.yaml")
    without = quickstart.planned()
    quickstart.edit("config/config.yaml", "decoders:\n", "decoders:\n  similarity: {examples: 4}\n")
    asked = quickstart.planned()
    asked.subtract(without)
    assert {rule: more for rule, more in asked.items() if more} == {
        "decoder_similarity": 3,
        "table": 1,
        "figure": 1,
    }


def test_costs_wait_for_the_jobs_of_the_similarity(project):
    smoke = project("config/smoke.yaml")
    smoke.edit("config/smoke.yaml", "rates: [0, 0.9]", "rates: [0, 0.9]\nsimilarity: {}")
    planned = job_counts(smoke.snakemake("--dry-run", "results/smoke/costs/costs.csv"))
    assert planned["similarity"] == 2
