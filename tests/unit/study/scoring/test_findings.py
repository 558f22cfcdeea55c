"""Findings of small studies whose answers are made up."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtrit

from mergegrid.errors import DataError
from mergegrid.study.reporting.catalogue import TABLES
from mergegrid.study.reporting.results import Results
from mergegrid.study.scoring.differences import LEVEL
from mergegrid.study.scoring.findings import COLUMNS, findings, needed
from mergegrid.study.scoring.levels import Estimate, Part
from mergegrid.study.scoring.scores import score_frame
from mergegrid.study.tasks.metrics import score

COUNT = 200
LABELS = {
    name: np.random.default_rng(place).integers(0, 2, COUNT) * 1.0
    for place, name in enumerate(("a", "b", "c"))
}


class Made:
    """Scores and answers of a made-up study, built model by model; tasks have the heads' names."""

    def __init__(self, engine="", metric="accuracy"):
        self.rows, self.answers, self.engine, self.metric = [], {}, engine, metric

    def add(self, right, experts, head, sparsifier="none", mask=None, seed=0, **values):
        """Add a model that answers this share of the examples right."""
        random = np.random.default_rng(len(self.rows))
        task = values.pop("task", head)
        correct = np.arange(COUNT) < round(right * COUNT)
        correct = correct ^ (random.random(COUNT) < 0.02)
        digest = f"recipe {len(self.rows)}"
        if self.engine:
            self.answers[digest, task] = correct * 1.0
            value = correct.mean()
        else:
            answers = np.where(correct, LABELS[task], 1 - LABELS[task])
            self.answers[digest, head] = answers
            value = score(self.metric, LABELS[task], answers)
        settings = {"method": {}, "sparsifier": {}}
        self.rows.append(
            {
                **{"study": "merges" if "+" in experts else "sweep", "family": "tiny"},
                **{"experts": experts, "head": head, "task": task, "metric": self.metric},
                **{"split": "test", "primary": True, "method": "average", "selected": True},
                **{"selection": "validation", "aim": "none", "training_seed": seed},
                **{"mask_seed": mask, "sparsifier": sparsifier, "rate": 0.9 * (mask is not None)},
                **{"value": value, "stderr": 0.1, "n": COUNT, "settings": json.dumps(settings)},
                **{"recipe": digest, "recipe_digest": digest, "engine": self.engine},
                **values,
            }
        )

    def merge(self, experts, right, **values):
        for head in experts.split("+"):
            self.add(right, experts, head, **values)

    def found(self):
        return findings(score_frame(self.rows), self.answers, LABELS)


def only(table, **values):
    for name, value in values.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


@pytest.fixture
def pairs():
    """Three pairs; TIES is better than average, DARE spoils average and leaves TIES alone."""
    made = Made()
    for experts in ("a+b", "a+c", "b+c"):
        made.merge(experts, 0.6)
        made.merge(experts, 0.8, method="ties")
        for mask in (0, 1):
            made.merge(experts, 0.4, sparsifier="dare", mask=mask)
            made.merge(experts, 0.8, method="ties", sparsifier="dare", mask=mask)
    for name in "abc":
        made.add(0.95, name, name)
        for mask in (0, 1):
            made.add(0.95, name, name, "dare", mask)
            made.add(0.30, name, name, "drop_only", mask)
    return made


def test_the_best_recipe_of_each_set_and_over_all_is_named_with_those_that_may_be_as_good(pairs):
    table = pairs.found()
    rows = table[table["kind"] == "best"]
    assert rows["experts"].tolist() == ["", "a+b", "a+c", "b+c"]
    assert set(rows["method"]) == {"ties"}
    for row in rows.itertuples():
        name = "ties with dare" if row.sparsifier == "none" else "ties"
        assert (row.against, row.tied) == (name, name)
        assert row.low < row.difference < row.high
        assert row.difference >= 0
        assert row.p_corrected >= LEVEL
    assert rows["comparisons"].tolist() == [1, 3, 3, 3]
    assert rows["n"].tolist() == [600, 400, 400, 400]


def test_a_recipe_that_is_better_than_every_other_is_told_apart():
    made = Made()
    made.merge("a+b", 0.9, method="ties")
    made.merge("a+b", 0.6)
    made.merge("a+b", 0.5, method="slerp")
    row = only(made.found(), kind="best")
    assert (row["method"], row["against"], row["tied"]) == ("ties", "average", "")
    assert row["p_corrected"] < LEVEL
    assert row["low"] > 0.2
    assert np.isnan(row["needed"])
    assert (row["sets"], row["tasks"], row["comparisons"]) == (1, 2, 1)
    assert row[["se_masks", "se_training", "se_sets"]].isna().all()


def test_sparsifiers_are_compared_with_none_by_method_over_all_sets(pairs):
    table = pairs.found()
    average = only(table, kind="sparsifier", method="average")
    ties = only(table, kind="sparsifier", method="ties")
    assert average["difference"] == pytest.approx(-0.2, abs=0.03)
    assert average["high"] < -0.1
    assert average["p_corrected"] < 0.001
    assert ties["low"] < 0 < ties["high"]
    assert (average["against"], average["comparisons"], average["sets"]) == ("none", 2, 3)
    assert average["rate"] == "0.9"
    assert average[["se_masks", "se_sets", "low_others"]].notna().all()
    assert average["low_others"] <= average["low"]


def test_merges_are_compared_with_the_expert_of_each_task(pairs):
    row = only(pairs.found(), kind="experts", experts="a+b")
    assert row["against"] == "single experts"
    assert row["difference"] == pytest.approx(-0.15, abs=0.03)
    assert row["high"] < 0
    # Four recipes on three sets.
    assert row["comparisons"] == 12


def test_merges_beside_base_and_experts_are_counted_over_sets(pairs):
    assert pairs.found()[["over_base", "retained"]].isna().all().all()
    for name, share in zip("abc", (0.3, 0.3, 0.75), strict=True):
        pairs.add(share, name, name, "drop_only", 0, rate=1.0)
    table = pairs.found()
    best = only(table, kind="best", experts="")
    assert (best["over_base"], best["over_experts"]) == (1, 0)
    # 0.8 of 0.95, above a base of 0.45.
    assert best["retained"] == pytest.approx(0.7, abs=0.05)
    dare = only(table, kind="sparsifier", method="average")
    # Only one of three sets has bases that a score of 0.4 exceeds.
    assert dare["over_base"] == pytest.approx(1 / 3)
    assert table.loc[table["kind"] == "drop_rate", "over_base"].isna().all()


def test_experts_that_were_scored_on_all_tasks_are_compared_one_by_one():
    made = Made("vllm")
    for head, share in (("a", 0.5), ("b", 0.7)):
        for task in ("a", "b"):
            made.add(share, head, head, task=task)
            made.add(0.9, "a+b", head, task=task) if task == head else None
    row = only(made.found(), kind="experts")
    assert row["against"] == "expert b"
    assert row["comparisons"] == 2
    assert row["difference"] == pytest.approx(0.2, abs=0.04)


def test_drop_rates_are_compared_with_the_whole_experts(pairs):
    table = pairs.found()
    dare = only(table, kind="drop_rate", sparsifier="dare")
    drop = only(table, kind="drop_rate", sparsifier="drop_only")
    assert dare["low"] < 0 < dare["high"]
    assert drop["high"] < -0.5
    assert (drop["comparisons"], drop["sets"], drop["method"], drop["experts"]) == (2, 3, "", "")


def test_intervals_exclude_0_where_the_corrected_p_value_is_small(pairs):
    table = pairs.found()
    # Of a best recipe, the p-value is the largest of all comparisons.
    pairwise = table[table["kind"] != "best"]
    excludes = (pairwise["low"] > 0) | (pairwise["high"] < 0)
    assert (excludes == (pairwise["p_corrected"] < LEVEL)).all()
    assert table["p_corrected"].tolist() == pytest.approx(
        np.minimum(1, table["p"] * table["comparisons"]).tolist()
    )


def test_intervals_are_as_wide_as_their_number_demands(pairs):
    table = pairs.found()
    stderr = np.sqrt(table[["se_examples", "se_masks", "se_training"]].pow(2).sum(axis=1))
    half = stdtrit(table["df"], 1 - LEVEL / table["comparisons"] / 2) * stderr
    assert (table["high"] - table["low"]).tolist() == pytest.approx((2 * half).tolist())
    assert set(table["comparisons"]) == {1, 2, 3, 4, 12}


def test_a_study_without_merges_has_drop_rates_alone():
    made = Made()
    made.add(0.9, "a", "a")
    made.add(0.9, "a", "a", "dare", 0)
    assert made.found()["kind"].tolist() == ["drop_rate"]


def test_a_study_without_single_experts_and_with_one_recipe_has_no_findings():
    made = Made()
    made.merge("a+b", 0.7)
    table = made.found()
    assert table.empty
    assert {name: str(kind) for name, kind in table.dtypes.items()} == {
        name: kind for name, (kind, _) in COLUMNS.items()
    }


def test_the_split_of_the_selection_is_given_where_something_was_selected(pairs):
    assert set(pairs.found()["selection"]) == {"none"}
    pairs.merge("a+b", 0.1, selected=False, split="validation", selection="test")
    table = pairs.found()
    assert set(table.loc[table["kind"] != "drop_rate", "selection"]) == {"test"}
    assert set(table.loc[table["kind"] == "drop_rate", "selection"]) == {"none"}


def test_families_are_corrected_on_their_own(pairs):
    pairs.add(0.9, "a", "a", family="other")
    pairs.add(0.5, "a", "a", "dare", 0, family="other")
    table = pairs.found()
    assert only(table, family="other")["comparisons"] == 1


@pytest.mark.parametrize("metric", ["accuracy", "matthews"])
def test_metrics_that_are_not_means_have_intervals_from_resamples(metric):
    made = Made(metric=metric)
    made.merge("a+b", 0.9)
    made.merge("a+b", 0.7, method="ties")
    row = only(made.found(), kind="best")
    scale = 2 if metric == "matthews" else 1  # Of balanced classes, it is 2 * accuracy - 1.
    assert row["difference"] == pytest.approx(0.2 * scale, abs=0.05 * scale)
    assert row["se_examples"] == pytest.approx(scale * 0.4 / np.sqrt(2 * COUNT), rel=0.25)


def test_the_order_of_scores_does_not_matter(pairs):
    first = pairs.found().sort_values(["kind", "experts", "method", "sparsifier"])
    pairs.rows.reverse()
    again = pairs.found().sort_values(["kind", "experts", "method", "sparsifier"])
    pd.testing.assert_frame_equal(first.reset_index(drop=True), again.reset_index(drop=True))


def test_missing_answers_are_an_error(pairs):
    del pairs.answers["recipe 0", "a"]
    with pytest.raises(DataError, match="recipe 0 has 0 stored answers"):
        pairs.found()


def test_the_examples_that_are_needed_shrink_the_variance_of_examples_alone():
    def found(difference, masks):
        parts = {"examples": Part(0.02**2, 1e-9), "masks": Part(masks**2, 0.0)}
        return Estimate(difference, parts)

    # For 2.8 points, a standard error of 1 point has a power of 80 % at the level of 5 %.
    assert needed(found(0.028015852, 0.0), 100, 0.05) == pytest.approx(400, abs=1)
    assert 800 < needed(found(0.028015852, 0.0075), 100, 0.05) < 1000
    assert needed(found(0.02, 0.01), 100, 0.05) == np.inf


def test_the_table_has_the_documented_columns(pairs, tmp_path):
    pairs.found().to_parquet(tmp_path / "findings.parquet")
    results = Results.from_files({"findings": str(tmp_path / "findings.parquet")})
    table = TABLES["findings"].make(results)
    assert list(table.columns) == list(TABLES["findings"].columns) == list(COLUMNS)
