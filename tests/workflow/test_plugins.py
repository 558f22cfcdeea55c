"""A study with the method and the sparsifier of another package, from models to scores."""

import example_package
import pandas as pd
import pytest
import small_models
from project import Project

pytestmark = pytest.mark.workflow
STUDY = """
title: Tiny study with a method and a sparsifier of another package
paths: {results: results/plugins, logs: logs/plugins}
decoders:
  benchmarks:
    formats:
      kind: instructions
      generated: {generator: instructions, count: 4, seed: 1000}
      prompt: "{instruction}"
      sampling: {max_tokens: 8}
  families:
    llama:
      base: {source: "path:MODELS/base", licence: made here}
      experts:
        math: {benchmarks: [formats], source: {source: "path:MODELS/math", licence: made here}}
        code: {benchmarks: [formats], source: {source: "path:MODELS/code", licence: made here}}
  generation: {backend: transformers, dtype: float32, batch_size: 4}
  rates: [0.5]
  sweep: {sparsifiers: [{kind: norm_limit}]}
  merges:
    methods: [{kind: root_sum, coefficient: 0.5}]
    sparsifiers: [{kind: none}, {kind: norm_limit, limit: 0.0005}]
"""


def test_a_study_merges_and_scores_by_what_another_package_adds(tmp_path):
    small_models.family(tmp_path / "models")
    project = Project(tmp_path / "project", "config/plugins.yaml")
    text = STUDY.replace("MODELS", str(tmp_path / "models"))
    (project.folder / project.config).write_text(text)
    project.environment = example_package.install(tmp_path / "packages")
    project.environment["MERGEGRID_CACHE"] = str(tmp_path / "cache")
    project.snakemake("--cores", "2", "results/plugins/scores.parquet")
    scores = pd.read_parquet(project.folder / "results/plugins/scores.parquet")
    merges = scores[scores["method"] == "root_sum"]
    assert set(merges["sparsifier"]) == {"none", "norm_limit"}
    assert (scores[scores["method"] != "root_sum"]["sparsifier"] == "norm_limit").any()
    # Nothing is left to do: what the package adds has a stable identity.
    assert not set(project.planned()) & {"merge", "generate", "score"}
