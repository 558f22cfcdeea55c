"""The oracle: a further reference for merges that changes nothing else."""

import pandas as pd
import pytest

from mergegrid.study.reporting import tables
from mergegrid.study.reporting.figures import merges_figure
from mergegrid.study.scoring.scores import score_frame


def row(study, experts, task, value, method="average", **values):
    built = {
        "study": study, "family": "minilm", "experts": experts, "training_seed": 0,
        "sparsifier": "none", "rate": 0.0, "mask_seed": None, "method": method,
        "settings": '{"method":{},"sparsifier":{}}', "head": task, "task": task, "split": "test",
        "metric": "accuracy", "primary": True, "value": value, "stderr": 0.01, "n": 500,
        "selected": True, "selection": "validation" if study == "merges" else "none",
        "recipe": "slug", "engine": "", "inputs_digest": "digest", **values,
    }  # fmt: skip
    return {"recipe_digest": f"{study} {experts} {built['sparsifier']} {method}", **built}


BASE = {"sparsifier": "drop_only", "rate": 1.0, "mask_seed": 0}
PLAIN = [
    row("sweep", "trec", "trec", 0.90),
    row("sweep", "trec", "trec", 0.30, **BASE),
    row("sweep", "spam", "spam", 0.99),
    row("sweep", "spam", "spam", 0.10, **BASE),
    row("merges", "trec+spam", "trec", 0.60, "ties"),
    row("merges", "trec+spam", "spam", 0.70, "ties"),
]
ORACLES = [
    row("oracle", "trec+spam", "trec", 0.92, "multitask"),
    row("oracle", "trec+spam", "spam", 0.98, "multitask"),
    row("oracle", "trec+spam", "trec", 0.10, "multitask", split="validation"),
    row("oracle", "trec+spam", "spam", 0.10, "multitask", split="validation"),
    # Of a set that is not merged.
    row("oracle", "trec+tweets", "trec", 0.20, "multitask"),
]


def test_the_oracle_is_a_reference_with_its_own_test_scores():
    summary = tables.merge_summary(score_frame([*PLAIN, *ORACLES]))
    assert list(summary["method"].unique()) == [
        "single experts",
        "multitask oracle",
        "base",
        "ties",
    ]
    assert set(summary["experts"]) == {"trec+spam"}
    means = summary[summary["method"] == "multitask oracle"].set_index("task")["mean"]
    assert means.to_dict() == pytest.approx({"trec": 0.92, "spam": 0.98, "mean": 0.95})
    wide = tables.merges_wide(score_frame([*PLAIN, *ORACLES]))
    assert wide.set_index("method").loc["multitask oracle", "mean"] == "0.950"


def test_an_oracle_changes_no_other_row():
    without, with_oracle = score_frame([*PLAIN]), score_frame([*PLAIN, *ORACLES])
    for table in (tables.drop_rates, tables.merges, tables.merge_candidates, tables.benchmarks):
        pd.testing.assert_frame_equal(table(with_oracle), table(without))
    summary = tables.merge_summary(with_oracle)
    others = summary[summary["method"] != "multitask oracle"].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, tables.merge_summary(without))


@pytest.mark.parametrize("oracles", [[], ORACLES])
def test_the_figure_shows_and_names_an_oracle_if_there_is_one(oracles):
    figure = merges_figure(score_frame([*PLAIN, *oracles]), "minilm")
    (axis,) = figure.axes
    levels = sorted(line.get_xdata()[0] for line in axis.lines if len(set(line.get_xdata())) == 1)
    assert any(level == pytest.approx(0.95) for level in levels) == bool(oracles)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("oracle" in label for label in labels) == bool(oracles)
    assert "base" in labels
