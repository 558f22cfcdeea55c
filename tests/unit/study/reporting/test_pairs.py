"""Tables of ordered pairs against values computed by hand."""

import json

import numpy as np
import pytest

from mergegrid.study.reporting.pairs import pairs, sparsifier_effects
from mergegrid.study.reporting.pairs_figure import pairs_figure
from mergegrid.study.scoring.scores import score_frame as frame


def row(**values):
    """Return a row of test scores of the expert `trec` alone."""
    built = {
        **{"study": "sweep", "family": "minilm", "experts": "trec", "training_seed": 0},
        **{"sparsifier": "none", "rate": 0.0, "mask_seed": None, "method": "average"},
        **{"settings": '{"method":{},"sparsifier":{}}', "task": "trec", "split": "test"},
        **{"metric": "accuracy", "primary": True, "stderr": 0.01, "n": 500, "selected": True},
        **{"selection": "validation", "recipe": "slug", "engine": "", "inputs_digest": "x"},
        **values,
    }
    return {"recipe_digest": json.dumps(built), **built}


def merge(**values):
    return row(**{"study": "merges", "experts": "trec+spam", **values})


def only(table, **values):
    """Return the only row with these values."""
    for name, value in values.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


# Two experts alone, trec at 0.90 and spam at 0.80, and merged: one run without a sparsifier, two
# masks with DARE. The base has 0.30 on trec.
PAIR = [
    row(value=0.90, head="trec"),
    row(value=0.30, head="trec", sparsifier="drop_only", rate=1.0, mask_seed=0),
    row(value=0.80, head="spam", experts="spam", task="spam"),
    merge(value=0.70, head="trec", method="ties"),
    merge(value=0.60, head="spam", task="spam", method="ties"),
    merge(value=0.72, head="trec", method="ties", sparsifier="dare", rate=0.5, mask_seed=0),
    merge(value=0.76, head="trec", method="ties", sparsifier="dare", rate=0.5, mask_seed=1),
    merge(value=0.57, head="spam", task="spam", method="ties", sparsifier="dare", rate=0.5,
          mask_seed=0),
    merge(value=0.59, head="spam", task="spam", method="ties", sparsifier="dare", rate=0.5,
          mask_seed=1),
]  # fmt: skip


def test_each_expert_is_a_target_once_with_the_other_as_source():
    table = pairs(frame(PAIR))
    actual = table[["source", "target", "task", "sparsifier"]].to_numpy().tolist()
    assert sorted(actual) == sorted(
        [s, t, t, kind]
        for s, t in (("spam", "trec"), ("trec", "spam"))
        for kind in ("none", "dare")
    )


def test_a_pair_has_the_scores_of_its_target_and_of_the_method_alone():
    dare = only(pairs(frame(PAIR)), target="trec", sparsifier="dare")
    assert dare["mean"] == pytest.approx(0.74)
    assert dare["runs"] == 2
    assert dare["rate"] == "0.5"
    assert (dare["expert"], dare["base"]) == (0.90, 0.30)
    assert dare["change"] == pytest.approx(0.04)
    assert np.isnan(dare["oracle"])
    plain = only(pairs(frame(PAIR)), target="trec", sparsifier="none")
    assert np.isnan(plain["change"])


def test_changes_compare_runs_of_the_same_training_seed():
    later = [{**row, "training_seed": 1, "value": row["value"] + 0.1} for row in PAIR]
    dare = only(pairs(frame([*PAIR, *later])), target="trec", sparsifier="dare")
    assert dare["change"] == pytest.approx(0.04)


def test_the_oracle_is_that_of_the_same_set():
    oracle = merge(study="oracle", value=0.88, head="trec", method="multitask", selection="none")
    table = pairs(frame([*PAIR, oracle]))
    assert only(table, target="trec", sparsifier="none")["oracle"] == 0.88
    assert np.isnan(only(table, target="spam", sparsifier="none")["oracle"])


def test_larger_sets_candidates_and_validation_are_excluded():
    others = [
        merge(value=1.0, head="trec", experts="trec+spam+x"),
        merge(value=1.0, head="trec", selected=False),
        merge(value=1.0, head="trec", split="validation"),
    ]
    assert pairs(frame(others)).empty
    assert sparsifier_effects(frame(others)).empty


def test_an_effect_is_the_mean_change_over_ordered_pairs_in_points_and_per_cent():
    # Changes: trec +0.02 and +0.06, spam -0.03 and -0.01; by mask +0.005 x -1 and 0.025.
    effect = only(sparsifier_effects(frame(PAIR)), sparsifier="dare")
    assert effect["pairs"] == 2
    assert effect["points"] == pytest.approx(1.0)
    assert effect["std_pairs"] == pytest.approx(np.std([4, -2], ddof=1))
    assert effect["std_seeds"] == pytest.approx(np.std([-0.5, 2.5], ddof=1))
    assert effect["percent"] == pytest.approx(100 * (0.66 / 0.65 - 1))
    assert (effect["better"], effect["equal"], effect["worse"]) == (1, 0, 1)
    assert np.isnan(effect["published"])


def test_a_published_change_is_shown_for_its_method_and_family_only():
    known = {"family": "minilm", "method": "ties", "sparsifier": "dare", "value": 0.84}
    table = sparsifier_effects(frame(PAIR), [known, {**known, "method": "average", "value": 0.58}])
    assert table["published"].tolist() == [0.84]
    assert sparsifier_effects(frame(PAIR), [{**known, "family": "x"}])["published"].isna().all()


def test_the_figure_has_a_panel_per_method_and_names_every_target():
    figure = pairs_figure(frame(PAIR), "minilm")
    (axis,) = figure.axes
    assert axis.get_title() == "TIES"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["trec", "spam"]
    drawn = sorted(x for line in axis.lines for x in line.get_xdata() if line.get_marker() == "o")
    assert drawn == pytest.approx(sorted([0.70 / 0.9, 0.74 / 0.9, 0.60 / 0.8, 0.58 / 0.8]))


def test_without_pairs_the_figure_says_so():
    figure = pairs_figure(frame(PAIR[:3]), "minilm")
    assert "merges no pairs" in figure.texts[0].get_text()
