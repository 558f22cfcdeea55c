"""The first results of a job, against scores made by hand."""

from mergegrid.study.reporting.first_results import first_results
from mergegrid.study.scoring.scores import score_frame

DARE = {"sparsifier": "dare", "rate": 0.9, "mask_seed": 0}


def row(study, experts, task, value, method="average", **values):
    built = {
        "study": study, "family": "minilm", "experts": experts, "training_seed": 0,
        "sparsifier": "none", "rate": 0.0, "mask_seed": None, "method": method,
        "settings": '{"method":{},"sparsifier":{}}', "head": task, "task": task, "split": "test",
        "metric": "accuracy", "primary": True, "value": value, "stderr": 0.01, "n": 500,
        "selected": True, "selection": "validation" if study == "merges" else "none",
        "aim": "none", "recipe": "slug", "engine": "", "inputs_digest": "digest", **values,
    }  # fmt: skip
    digest = f"{study} {experts} {built['sparsifier']} {built['rate']} {method}"
    return {"recipe_digest": digest, **built}


ALONE = [
    row("sweep", "trec", "trec", 0.90),
    row("sweep", "trec", "trec", 0.30, sparsifier="drop_only", rate=1.0, mask_seed=0),
    row("sweep", "trec", "trec", 0.88, **DARE),
    row("sweep", "trec", "trec", 0.40, sparsifier="drop_only", rate=0.9, mask_seed=0),
    row("sweep", "spam", "spam", 0.80),
    row("sweep", "spam", "spam", 0.10, sparsifier="drop_only", rate=1.0, mask_seed=0),
]
MERGES = [
    row("merges", "trec+spam", "trec", 0.60, "ties"),
    row("merges", "trec+spam", "spam", 0.70, "ties"),
    row("merges", "trec+spam", "trec", 0.62, "ties", **DARE),
    row("merges", "trec+spam", "spam", 0.78, "ties", **DARE),
    row("merges", "trec+spam", "trec", 0.99, "ties", split="validation"),
]


def test_first_results_are_a_line_for_an_expert_and_one_for_a_set(tmp_path):
    path = tmp_path / "scores.parquet"
    score_frame(ALONE[:4]).to_parquet(path)
    assert first_results(path) == [
        "trec of minilm alone: 0.900 accuracy, base 0.300; at 0.9 dare 0.880, drop_only 0.400"
    ]
    score_frame(MERGES).to_parquet(path)
    assert first_results(path) == [
        "trec+spam of minilm merged: best of 2: dare + ties 0.700, mean of 2 tasks"
    ]
