"""The ranking of merges against a bootstrap in plain Python, and cases with a known answer."""

import json

import numpy as np
import pytest

from mergegrid.errors import DataError
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

    def ranked(self, resamples=400, size=None):
        table = rank(score_frame(self.rows), self.answers, LABELS, resamples)
        return table[table["size"] == (size or table["size"].iloc[-1])].set_index(
            ["method", "sparsifier"]
        )


def answering(share, seed):
    """Right answers, this share of them, drawn for each task."""
    return lambda task: np.random.default_rng([seed, TASKS.index(task)]).random(COUNT) < share


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
    assert table["rank"].tolist() == [1.5, 1.5]
    assert table["behind"].tolist() == [0, pytest.approx(3 / 60)]
    assert table["sets"].tolist() == [2, 2]


def drawn_rank(random, right, sets):
    """The mean rank of `ties` on one resample of examples, seeds, masks and sets."""
    examples = {task: random.integers(COUNT, size=COUNT) for task in TASKS}
    seeds, masks = random.integers(2, size=2), random.integers(3, size=3)

    def drawn(experts, method, masks):
        values = [
            right[experts, method, seed, mask](head)[examples[head]].mean()
            for seed in seeds
            for mask in masks
            for head in experts.split("+")
        ]
        return np.mean(values)

    places = []
    for number in random.integers(len(sets), size=len(sets)):
        ties = drawn(sets[number], "ties", masks)
        average = drawn(sets[number], "average", [None])
        places.append(1.5 if np.isclose(ties, average) else 1 + (ties < average))
    return np.mean(places)


def test_intervals_match_a_bootstrap_in_plain_python():
    made, sets = Made(), ("cola+mrpc", "cola+rte", "mrpc+sst2")
    right = {}
    for number, experts in enumerate(sets):
        for method, share in (("average", 0.7), ("ties", 0.75)):
            for seed in (0, 1):
                for mask in (0, 1, 2) if method == "ties" else (None,):
                    key = experts, method, seed, mask
                    right[key] = answering(share, 100 * number + 10 * seed + (mask or 7))
                    kind = {"sparsifier": "dare", "rate": 0.9} if mask is not None else {}
                    named = {"method": method, "training_seed": seed, "mask_seed": mask, **kind}
                    made.merge(experts, right[key], **named)
    row = made.ranked(20_000).loc["ties", "dare"]
    random = np.random.default_rng(0)
    ranks = [drawn_rank(random, right, sets) for _ in range(4_000)]
    low, high = np.quantile(ranks, [0.025, 0.975])
    assert (row["rank_low"], row["rank_high"]) == (pytest.approx(low), pytest.approx(high))
    # Means of ranks are thirds and sixths, so their distribution is compared as well.
    assert row["rank"] == pytest.approx(np.mean(ranks), abs=0.25)


def test_equal_merges_share_a_rank_and_are_not_significant():
    made = Made()
    made.experts()
    for method in ("average", "ties", "task_arithmetic"):
        made.merge("cola+mrpc", answering(0.8, 1), method=method)
    table = made.ranked()
    assert table["rank"].tolist() == [2, 2, 2]
    assert (table["rank_low"] == table["rank_high"]).all()
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


def test_methods_of_one_quality_are_rarely_significant():
    studies = 100
    alarms = 0
    for study in range(studies):
        made = Made()
        for number, method in enumerate(("average", "ties", "task_arithmetic", "slerp")):
            for experts in ("cola+mrpc", "cola+rte", "rte+sst2", "mrpc+sst2"):
                made.merge(experts, answering(0.7, 10 * study + number), method=method)
        alarms += made.ranked(200)["significant"].any()
    # The best of four is chosen after the fact; 5 of 100 are nominal, 13 far beyond chance.
    assert alarms <= 13


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
    assert made.ranked()[["percent", "percent_low", "percent_high"]].isna().all(axis=None)


def test_missing_answers_are_an_error():
    made = Made()
    for method in ("average", "ties"):
        made.merge("cola+mrpc", answering(0.8, 1), method=method)
    made.answers.popitem()
    with pytest.raises(DataError, match="has 0 stored answers"):
        made.ranked()
