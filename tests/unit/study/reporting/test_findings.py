"""Sentences on results, against scores and comparisons made by hand."""

import pandas as pd

from mergegrid.study.reporting.findings import findings
from mergegrid.study.reporting.first_results import first_results
from mergegrid.study.scoring.comparisons import COLUMNS
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


def compared(*rows):
    same = {"family": "minilm", "experts": "trec+spam", "head": "trec", "task": "trec"}
    same |= {"metric": "accuracy", "engine": "", "method": "ties", "sparsifier": "dare"}
    same |= {"rate": "0.9", "settings": "{}", "against": "none", "runs": 1, "n": 10}
    numbers = {"low": 0.0, "high": 0.0, "p": 0.5, "p_holm": 1.0}
    types = {name: kind for name, (kind, _) in COLUMNS.items()}
    return pd.DataFrame([{**same, **numbers, **row} for row in rows], columns=list(types)).astype(
        types
    )


def test_the_best_merge_stands_beside_experts_and_base():
    (line,) = findings(score_frame([*ALONE, *MERGES]))
    assert line == (
        "minilm, trec+spam: best of 2 merges: dare at 0.9 + ties 0.700; "
        "single experts 0.850, base 0.200"
    )


def test_larger_sets_come_first_and_the_rest_is_counted():
    rows = [row("merges", f"a+{name}", "a", 0.5, "ties") for name in "bcdef"]
    rows += [row("merges", "a+b+c", "a", 0.5, "ties")]
    lines = findings(score_frame(rows))
    assert lines[0].startswith("minilm, a+b+c: merged: ties 0.500")
    assert lines[-1].startswith("2 more sets")


def test_effects_say_how_many_differences_are_significant():
    lines = findings(
        score_frame(ALONE),
        compared(
            {"study": "merges", "difference": 0.02},
            {"study": "merges", "difference": -0.06, "p_holm": 0.01},
            {"study": "sweep", "difference": -0.01, "rate": "0.5"},
            {"study": "sweep", "difference": -0.02, "rate": "0.9"},
            {"study": "sweep", "difference": -0.30, "sparsifier": "drop_only", "p_holm": 0.001},
            {"study": "sweep", "difference": 0.00, "sparsifier": "drop_only", "rate": "0.5"},
        ),
    )
    assert lines == [
        "minilm, dare before merging: -0.020 on average of 2 comparisons; "
        "significantly better in 0, worse in 1",
        "minilm, dare on single experts: no significant loss up to rate 0.9 (-0.020 there)",
        "minilm, drop_only on single experts: significant losses from rate 0.9 on (-0.300 there)",
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
