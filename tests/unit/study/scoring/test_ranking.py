"""The ranking of merges beside the findings, and cases with a known answer."""

import json

import numpy as np
import pytest

from mergegrid.errors import DataError
from mergegrid.study.scoring.findings import findings, recipe_name
from mergegrid.study.scoring.ranking import rank
from mergegrid.study.scoring.scores import score_frame

COUNT = 60
TASKS = ("cola", "mrpc", "rte", "sst2")
LABELS = {
    task: np.random.default_rng(number).integers(0, 2, COUNT) * 1.0
    for number, task in enumerate(TASKS)
}


class Made:
    """Scores and answers of a made-up study, built model by model."""

    def __init__(self):
        self.rows, self.answers = [], {}

    def row(self, study, experts, head, right, **values):
        """A model with these right answers, [examples] of bool, under one head."""
        digest = f"recipe {len(self.rows)}"
        self.answers[digest, head] = np.where(right, LABELS[head], 1 - LABELS[head])
        self.rows.append(
            {
                **{"study": study, "family": "minilm", "experts": experts, "head": head},
                **{"task": head, "metric": "accuracy", "split": "test", "primary": True},
                **{"method": "average", "selected": True, "selection": "validation"},
                **{"aim": "mean", "training_seed": 0, "mask_seed": None, "sparsifier": "none"},
                **{"rate": 0.0, "value": np.mean(right), "stderr": 0.1, "n": COUNT},
                **{"settings": json.dumps({"method": {}, "sparsifier": {}})},
                **{"recipe": digest, "recipe_digest": digest, "engine": ""},
                **values,
            }
        )

    def experts(self, right=lambda task: np.ones(COUNT, bool)):
        for task in TASKS:
            self.row("sweep", task, task, right(task), selection="none", aim="none")

    def merge(self, experts, right, **values):
        """One merge, with the answers `right(task)` under the head of each of its experts."""
        for head in experts.split("+"):
            self.row("merges", experts, head, right(head), **values)

    def ranked(self, size=None):
        table = rank(score_frame(self.rows), self.answers, LABELS)
        return table[table["size"] == (size or table["size"].iloc[-1])].set_index(
            ["method", "sparsifier"]
        )


def answering(share, seed):
    """Right answers, this share of them, drawn for each task."""
    return lambda task: (
        np.random.default_rng([*np.atleast_1d(seed), TASKS.index(task)]).random(COUNT) < share
    )


def test_score_percent_and_rank_are_those_computed_by_hand():
    made = Made()
    made.experts(lambda task: np.arange(COUNT) < 48)
    for experts, average, ties in (("cola+mrpc", 24, 36), ("rte+sst2", 30, 12)):
        made.merge(experts, lambda task, right=average: np.arange(COUNT) < right)
        made.merge(experts, lambda task, right=ties: np.arange(COUNT) < right, method="ties")
    table = made.ranked()
    assert table["score"].to_dict() == {
        ("average", "none"): pytest.approx(27 / 60),
        ("ties", "none"): pytest.approx(24 / 60),
    }
    assert table["percent"].tolist() == [pytest.approx(100 * 27 / 48), pytest.approx(50)]
    assert table["rank"].tolist() == [1, 2]
    assert table["mean_rank"].tolist() == [1.5, 1.5]
    assert table["behind"].tolist() == [0, pytest.approx(3 / 60)]
    assert table["sets"].tolist() == [2, 2]


@pytest.fixture(scope="module")
def study():
    """Five entrants over sets of two sizes, with two training and three mask seeds."""
    made = Made()
    shares = {"average": 0.9, "ties": 0.88, "slerp": 0.3}
    for number, experts in enumerate(("cola+mrpc", "cola+rte", "mrpc+sst2", "cola+mrpc+rte")):
        for place, (method, share) in enumerate(shares.items()):
            for seed in (0, 1):
                for mask in (None, 0, 1, 2) if method != "slerp" else (None,):
                    right = answering(share, [number, place, seed, 7 if mask is None else mask])
                    kind = {} if mask is None else {"sparsifier": "dare", "rate": 0.9}
                    named = {"method": method, "training_seed": seed, "mask_seed": mask, **kind}
                    made.merge(experts, right, **named)
    return made


@pytest.fixture(scope="module")
def study_table(study):
    return study.ranked()


def best_over_all_sets(made):
    """The finding about the best recipe over all sets, which comes before those of each set."""
    table = findings(score_frame(made.rows), made.answers, LABELS)
    return table[table["kind"] == "best"].iloc[0]


def test_the_best_is_told_apart_from_the_same_entrants_as_in_the_findings(study, study_table):
    table, best = study_table, best_over_all_sets(study)
    assert table.index[0] == (best["method"], best["sparsifier"])
    rest = table.iloc[1:]
    names = [recipe_name(*entrant) for entrant in rest.index]
    tied = [name for name, is_apart in zip(names, rest["significant"], strict=True) if not is_apart]
    assert 0 < len(tied) < len(rest)
    assert set(best["tied"].split("; ")) == set(tied)
    assert names[0] == best["against"]
    assert rest["behind"].iloc[0] == best["difference"]


def test_an_interval_excludes_0_exactly_where_the_best_is_told_apart(study_table):
    rest = study_table.iloc[1:]
    assert ((rest["low"] > 0) == rest["significant"]).all()
    assert ((rest["low"] < rest["behind"]) & (rest["behind"] < rest["high"])).all()
    # Three sets of two and one of three leave four independent experts.
    assert (rest["low_others"] < rest["behind"]).all()


def test_ranks_are_bounded_by_the_entrants_that_can_be_told_apart(study_table):
    table = study_table
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    # `slerp` is worse than all others for sure, which cannot be told apart from each other.
    assert table["rank_low"].tolist() == [1, 1, 1, 1, 5]
    assert table["rank_high"].tolist() == [4, 4, 4, 4, 5]


def test_two_entrants_have_the_interval_of_the_findings():
    made = Made()
    for number, experts in enumerate(("cola+mrpc", "cola+rte", "mrpc+rte", "rte+sst2")):
        for place, method in enumerate(("average", "ties")):
            for seed in (0, 1, 2):
                right = answering(0.8 - 0.1 * place, [number, place, seed])
                made.merge(experts, right, method=method, training_seed=seed)
    ends = ["low", "high", "low_others", "high_others"]
    best = best_over_all_sets(made)
    assert made.ranked().iloc[1][ends].tolist() == pytest.approx(best[ends].tolist())


def test_one_entrant_better_than_each_other_is_the_best_without_correction():
    """Findings call it the best, as one claim; two gaps alone are too small for that."""
    made = Made()
    right = np.arange(COUNT) < 50
    made.merge("cola+mrpc", lambda task: right)
    for place, method in enumerate(("ties", "slerp", "task_arithmetic", "sce")):
        worse = right & (np.arange(COUNT) % 12 != place)
        made.merge("cola+mrpc", lambda task, worse=worse: worse, method=method)
    table, best = made.ranked(), best_over_all_sets(made)
    assert best["p_corrected"] < 0.05
    assert best["tied"] == ""
    assert table["significant"].tolist() == [False, True, True, True, True]
    assert (table["low"].iloc[1:] < 0).sum() == 2
    assert table["rank_high"].iloc[0] == 1


def test_equal_merges_share_a_rank_and_are_not_significant():
    made = Made()
    made.experts()
    for method in ("average", "ties", "task_arithmetic"):
        made.merge("cola+mrpc", answering(0.8, 1), method=method)
    table = made.ranked()
    assert table["rank"].tolist() == [2, 2, 2]
    assert (table["rank_low"] == 1).all()
    assert (table["rank_high"] == 3).all()
    assert not table["significant"].any()


def test_what_is_plainly_worse_is_significant():
    made = Made()
    for experts in ("cola+mrpc", "rte+sst2"):
        made.merge(experts, answering(0.95, 1))
        made.merge(experts, answering(0.94, 2), method="ties")
        made.merge(experts, answering(0.3, 3), method="task_arithmetic")
    table = made.ranked()
    assert table["significant"].to_dict() == {
        ("average", "none"): False,
        ("ties", "none"): False,
        ("task_arithmetic", "none"): True,
    }
    assert table.index[-1] == ("task_arithmetic", "none")


def test_methods_that_miss_a_set_are_ranked_where_they_stand():
    made = Made()
    for experts in ("cola+mrpc", "cola+mrpc+rte"):
        for method in ("average", "ties"):
            made.merge(experts, answering(0.8, 1), method=method)
    made.merge("cola+mrpc", answering(0.9, 2), method="slerp")
    assert set(made.ranked(size="2").index.get_level_values("method")) == {
        *("average", "ties", "slerp")
    }
    for size in ("3", "all"):
        assert set(made.ranked(size=size).index.get_level_values("method")) == {"average", "ties"}


def test_candidates_are_those_of_the_method_and_of_the_sparsifier():
    made = Made()
    made.merge("cola+mrpc", answering(0.8, 1))
    for coefficient in (0.3, 0.5, 1.0):
        settings = json.dumps({"method": {"coefficient": coefficient}, "sparsifier": {}})
        named = {"method": "ties", "settings": settings}
        chosen = {"selected": coefficient == 0.5}
        made.merge("cola+mrpc", answering(0.8, 1), split="validation", **named, **chosen)
        if coefficient == 0.5:
            made.merge("cola+mrpc", answering(0.8, 2), **named)
            for rate in (0.5, 0.9):
                for mask in (0, 1):
                    masked = {"sparsifier": "dare", "rate": rate, "mask_seed": mask, **named}
                    chosen = {"selected": rate == 0.9}
                    made.merge(
                        "cola+mrpc", answering(0.8, 3), split="validation", **masked, **chosen
                    )
                    if rate == 0.9:
                        made.merge("cola+mrpc", answering(0.8, 4), **masked)
    assert made.ranked()["candidates"].to_dict() == {
        ("average", "none"): 1,
        ("ties", "none"): 3,
        ("ties", "dare"): 5,
    }


def test_one_method_alone_is_not_ranked():
    made = Made()
    made.merge("cola+mrpc", answering(0.8, 1))
    assert rank(score_frame(made.rows), made.answers, LABELS).empty


def test_studies_without_single_experts_have_no_percent():
    made = Made()
    for method in ("average", "ties"):
        made.merge("cola+mrpc", answering(0.8, 1), method=method)
    assert made.ranked()["percent"].isna().all()


def test_missing_answers_are_an_error():
    made = Made()
    for method in ("average", "ties"):
        made.merge("cola+mrpc", answering(0.8, 1), method=method)
    made.answers.popitem()
    with pytest.raises(DataError, match="has 0 stored answers"):
        made.ranked()
