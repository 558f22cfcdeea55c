"""Table and figure of the form of answers, against values computed by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from mergegrid.study.reporting.answers import answer_table
from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.pareto_figure import on_front, pareto_dots, pareto_figure


def row(tokens, value, **values):
    settings = {"sparsifier": {}, "method": values.pop("of_method", {})}
    made = {
        **{"study": "sweep", "family": "llama", "experts": "math", "head": "math"},
        **{"training_seed": 0, "sparsifier": "none", "rate": 0.0, "mask_seed": None},
        **{"method": "average", "settings": json.dumps(settings), "task": "sums", "split": "test"},
        **{"metric": "accuracy", "value": value, "stderr": 0.1, "n": 20, "tokens": tokens},
        **{"tokens_stderr": 2.0, "cut": 0.0, "thinks": 0.0, "samples": 1, "majority": np.nan},
    }
    return made | values


def merged(coefficient, tokens, value, **values):
    of_method = {"coefficient": coefficient, "normalize": False}
    made = {"study": "merges", "experts": "code+math", "method": "task_arithmetic"}
    return row(tokens, value, of_method=of_method, **{**made, **values})


BASE = {"sparsifier": "drop_only", "rate": 1.0, "mask_seed": 0}
ROWS = [
    row(100.0, 0.8),
    row(200.0, 0.1, **BASE),
    merged(0.5, 150.0, 0.5, cut=0.25),
    merged(0.9, 90.0, 0.6),
    merged(0.1, 190.0, 0.2),
    merged(0.5, 80.0, 0.4, sparsifier="dare", rate=0.9, mask_seed=0),
    merged(0.5, 100.0, 0.6, sparsifier="dare", rate=0.9, mask_seed=1),
    merged(0.5, 1.0, 1.0, split="validation"),
]


def test_the_table_compares_lengths_with_the_expert_of_the_benchmark():
    table = answer_table(pd.DataFrame(ROWS))
    shown = [name for name in TABLES["answers"].columns if not name.startswith("<")]
    assert list(table.columns) == shown
    of = table[table["split"] == "test"].set_index(["sparsifier", "settings"])
    assert of.loc["base", "length_change"].tolist() == [1.0]
    assert of.loc["none", "length_change"].tolist() == pytest.approx([0, 0.5, -0.1, 0.9])
    dare = of.loc["dare"].iloc[0]
    assert (dare["runs"], dare["tokens"], dare["mean"]) == (2, 90, 0.5)
    assert dare["tokens_std"] == pytest.approx(np.sqrt(200))
    assert dare["length_change"] == pytest.approx(-0.1)
    # The validation split has no expert here.
    (validation,) = table.loc[table["split"] == "validation", "length_change"]
    assert np.isnan(validation)


def test_a_length_is_compared_with_the_expert_of_the_same_training_seed():
    seeds = [row(100.0, 1, training_seed=0), row(300.0, 1, training_seed=1)]
    longer = [merged(1.0, 150.0, 1, training_seed=0), merged(1.0, 150.0, 1, training_seed=1)]
    table = answer_table(pd.DataFrame([*seeds, *longer])).set_index("experts")
    assert table.at["code+math", "length_change"] == pytest.approx((0.5 - 0.5) / 2)
    assert table.at["math", "length_change"] == 0


def test_pass_at_k_has_a_column_per_k():
    rows = [{**each, "pass@2": 0.5, "pass@8": 0.75} for each in ROWS]
    table = answer_table(pd.DataFrame(rows))
    assert list(table.columns[-2:]) == ["pass@2", "pass@8"]
    assert set(table["pass@8"]) == {0.75}


@pytest.mark.parametrize(
    ("cost", "gain", "front"),
    [
        ([1, 2, 3], [0.1, 0.2, 0.3], [True, True, True]),
        ([1, 2, 3], [0.3, 0.2, 0.1], [True, False, False]),
        ([1, 1, 1], [0.1, 0.2, 0.2], [False, True, True]),
        ([1, 2, 2], [0.2, 0.2, 0.3], [True, False, True]),
        ([5], [0.0], [True]),
        ([1, 2], [np.nan, 0.3], [False, True]),
    ],
)
def test_the_front_holds_what_nothing_dominates(cost, gain, front):
    assert on_front(cost, gain) == front


def test_dots_are_settings_on_test_with_their_spread_and_lines():
    dots = pareto_dots(pd.DataFrame(ROWS))
    assert len(dots) == 6
    by_tokens = dots.set_index("tokens")
    assert by_tokens.index[by_tokens["front"]].tolist() == [100, 90]
    # One run: the standard error over questions; several: the smallest and largest.
    assert by_tokens.loc[100, ["tokens_low", "tokens_high"]].tolist() == [98, 102]
    dare = dots[dots["sparsifier"] == "dare"].iloc[0]
    assert dare[["tokens_low", "tokens_high", "mean_low", "mean_high"]].tolist() == [
        *(80, 100, 0.4, 0.6)
    ]
    line = dots[dots["line"].notna()]
    assert line["at"].tolist() == [0.5, 0.9, 0.1]
    assert line["line"].nunique() == 1


def test_settings_that_differ_otherwise_are_other_lines():
    rows = [
        merged(0.5, 1, 1), merged(0.6, 1, 1), merged(0.5, 1, 1, task="words"),
        merged(0.6, 1, 1, sparsifier="dare", rate=0.5, mask_seed=0),
        merged(0.5, 1, 1, sparsifier="dare", rate=0.5, mask_seed=0),
        merged(0.5, 1, 1, sparsifier="dare", rate=0.7, mask_seed=0),
        merged(0.5, 1, 1, experts="law+math"),
    ]  # fmt: skip
    dots = pareto_dots(pd.DataFrame(rows))
    assert dots.groupby("line").size().tolist() == [2, 2]


def test_weights_of_a_mean_are_a_line_along_the_share_of_the_last_expert():
    weights = [{"instruct": 0.8, "thinking": 0.2}, {"instruct": 1, "thinking": 3}]
    rows = [
        row(1, 1, study="merges", experts="instruct+thinking", of_method={"weights": each})
        for each in weights
    ]
    dots = pareto_dots(pd.DataFrame(rows))
    assert dots["at"].tolist() == pytest.approx([0.2, 0.75])
    assert dots["line"].nunique() == 1


def test_the_figure_has_a_panel_per_benchmark_and_labels_points_of_lines():
    rows = [*ROWS, row(5.0, 0.5, task="words"), row(5.0, 0.5, family="qwen", task="other")]
    figure = pareto_figure(pd.DataFrame(rows), "llama")
    assert [axis.get_title() for axis in figure.axes] == ["sums (accuracy)", "words (accuracy)"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.1", "0.5", "0.9"]
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"base", "expert alone", "task arithmetic", "task arithmetic after DARE"} <= labels
    assert any("smallest to largest over seeds" in label for label in labels)
    rings = [line for line in figure.axes[0].lines if line.get_markersize() == 11]
    assert rings[0].get_xdata().tolist() == [90, 100]


def test_a_family_without_answers_has_a_note():
    figure = pareto_figure(pd.DataFrame(ROWS), "other")
    assert "no answers" in figure.texts[0].get_text()
