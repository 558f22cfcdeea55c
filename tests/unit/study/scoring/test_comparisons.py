"""Paired comparisons against a bootstrap in plain Python, and cases with a known answer."""

import json

import numpy as np
import pandas as pd
import pytest

from mergegrid.errors import DataError
from mergegrid.study.scoring.comparisons import COLUMNS, compare, holm, read_answers, read_labels
from mergegrid.study.scoring.scores import score_frame
from mergegrid.study.tasks.metrics import score

COUNT = 40
LABELS = {"trec": np.random.default_rng(0).integers(0, 2, COUNT) * 1.0}


class Made:
    """Scores and answers of a made-up study, built model by model."""

    def __init__(self, engine=""):
        self.rows, self.answers, self.engine = [], {}, engine

    def add(self, answers, sparsifier="none", seed=0, mask=None, rate=0.0, **values):
        digest = f"recipe {len(self.rows)}"
        task = values.get("task", "trec")
        if self.engine:
            self.answers[digest, task] = answers
            value = answers.mean()
        else:
            self.answers[digest, "trec"] = answers
            value = score("accuracy", LABELS["trec"], answers)
        self.rows.append(
            {
                **{"study": "sweep", "family": "minilm", "experts": "trec", "head": "trec"},
                **{"task": task, "metric": "accuracy", "split": "test", "primary": True},
                **{"method": "average", "selected": True, "selection": "none", "aim": "none"},
                **{"training_seed": seed, "mask_seed": mask, "sparsifier": sparsifier},
                **{"rate": rate, "value": value, "stderr": 0.1, "n": len(answers)},
                **{"settings": json.dumps({"method": {}, "sparsifier": {}})},
                **{"recipe": digest, "recipe_digest": digest, "engine": self.engine},
                **values,
            }
        )

    def compared(self, resamples=4000):
        return compare(score_frame(self.rows), self.answers, LABELS, resamples)


def answering(right, seed=0):
    """Return answers with this share of correct ones."""
    random = np.random.default_rng(seed)
    return np.where(random.random(COUNT) < right, LABELS["trec"], 1 - LABELS["trec"])


def test_intervals_and_p_match_a_bootstrap_in_plain_python():
    built = Made()
    whole = {0: answering(0.9, 1), 1: answering(0.8, 2)}
    masked = {(s, m): answering(0.7, 10 + 2 * s + m) for s in (0, 1) for m in (0, 1)}
    for seed, answers in whole.items():
        built.add(answers, seed=seed)
    for (seed, mask), answers in masked.items():
        built.add(answers, "dare", seed, mask, 0.9)
    row = built.compared(20_000).iloc[0]
    right = {key: LABELS["trec"] == answer for key, answer in (whole | masked).items()}
    random = np.random.default_rng(5)
    differences = []
    for _ in range(20_000):
        draw = random.integers(COUNT, size=COUNT)
        runs = [(s, m) for s in random.integers(2, size=2) for m in random.integers(2, size=2)]
        differences.append(
            np.mean([right[run][draw].mean() - right[run[0]][draw].mean() for run in runs])
        )
    assert row["difference"] == pytest.approx(
        np.mean([right[run].mean() - right[run[0]].mean() for run in masked])
    )
    low, high = np.quantile(differences, [0.025, 0.975])
    assert (row["low"], row["high"]) == (
        pytest.approx(low, abs=0.01),
        pytest.approx(high, abs=0.01),
    )
    assert row["p"] == pytest.approx(2 * np.mean(np.array(differences) >= 0), abs=0.005)
    assert (row["runs"], row["n"], row["against"]) == (4, COUNT, "expert")


def test_models_with_equal_answers_do_not_differ():
    built = Made()
    built.add(answering(0.8))
    built.add(answering(0.8), "dare", 0, 0, 0.5)
    row = built.compared().iloc[0]
    assert (row["difference"], row["low"], row["high"], row["p"], row["p_holm"]) == (0, 0, 0, 1, 1)


def test_p_is_rarely_small_under_the_null_hypothesis():
    built = Made()
    for index in range(200):
        built.add(answering(0.7, 2 * index), experts=f"expert {index}")
        built.add(answering(0.7, 2 * index + 1), "dare", 0, 0, 0.5, experts=f"expert {index}")
    p = built.compared(1000)["p"]
    # Of 200 fair tests 20 are below 0.1; three standard deviations are 13 more.
    assert (p < 0.1).sum() <= 33
    assert (p < 0.5).sum() >= 60


def test_holm_matches_a_computation_by_hand():
    # 0.01 * 4, then 0.02 * 3, then 0.03 * 2 = 0.06, then max(0.06, 0.04 * 1).
    np.testing.assert_allclose(
        holm(np.array([0.03, 0.01, 0.04, 0.02])), [0.06, 0.04, 0.06, 0.06], rtol=1e-12
    )
    assert holm(np.array([0.5, 0.6])).tolist() == [1, 1]


def test_each_study_and_family_is_corrected_separately():
    built = Made()
    for family, rates in (("minilm", (0.1, 0.5, 0.9)), ("other", (0.5,))):
        built.add(answering(0.99), family=family)
        for rate in rates:
            built.add(answering(0.6, 3), "dare", 0, 0, rate, family=family)
    actual = built.compared().groupby("family")
    assert (actual["p_holm"].first() / actual["p"].first()).round(9).to_dict() == {
        "minilm": 3,
        "other": 1,
    }


def test_merges_are_compared_with_the_same_method_set_head_and_seed():
    built = Made()
    same = {"study": "merges", "experts": "trec+spam", "aim": "each"}
    for method, share in (("average", 0.5), ("ties", 0.9)):
        built.add(answering(share, 1), method=method, **same)
        built.add(answering(0.7, 2), "dare", 0, 0, 0.5, method=method, **same)
    # Neither was chosen for this head, or is on test.
    built.add(answering(0.1), "dare", 0, 0, 0.9, method="ties", selected=False, **same)
    built.add(answering(0.1), "dare", 0, 0, 0.9, method="ties", split="validation", **same)
    # Another training seed has nothing to be compared with.
    built.add(answering(0.1), "dare", 1, 0, 0.9, method="ties", **same)
    actual = built.compared()
    assert actual[["method", "sparsifier", "rate", "against", "runs"]].to_numpy().tolist() == [
        ["average", "dare", "0.5", "none", 1],
        ["ties", "dare", "0.5", "none", 1],
    ]
    values = score_frame(built.rows)["value"]
    expected = [values[1] - values[0], values[3] - values[2]]
    assert actual["difference"].tolist() == pytest.approx(expected)


def test_seeds_with_different_rates_are_one_comparison():
    built = Made()
    same = {"study": "merges", "experts": "trec+spam"}
    for seed, rate in ((0, 0.9), (1, 0.5)):
        built.add(answering(0.8, seed), seed=seed, **same)
        built.add(answering(0.7, seed), "dare", seed, 0, rate, **same)
    actual = built.compared()
    assert (len(actual), actual["rate"][0], actual["runs"][0]) == (1, "0.5, 0.9", 2)


def test_the_base_alone_is_not_compared():
    built = Made()
    built.add(answering(0.8))
    built.add(answering(0.1), "drop_only", 0, 0, 1.0)
    assert built.compared().empty
    assert list(built.compared().columns) == list(COLUMNS)


def test_answers_of_decoders_are_compared_by_the_mean_of_their_values():
    built = Made("vllm")
    built.add(np.array([1.0, 0.5, 0.0, 1.0]), task="gsm8k", metric="pass@1")
    built.add(np.array([0.0, 0.5, 0.0, 1.0]), "dare", 0, 0, 0.9, task="gsm8k", metric="pass@1")
    row = built.compared().iloc[0]
    assert (row["difference"], row["n"], row["high"]) == (-0.25, 4, 0)


def test_the_same_study_gives_the_same_numbers_in_any_order():
    built = Made()
    for rate in (0.0, 0.1, 0.5, 0.9):
        built.add(answering(0.7, int(rate * 10)), "dare" if rate else "none", 0, 0, rate)
    first = built.compared()
    built.rows.reverse()
    pd.testing.assert_frame_equal(built.compared(), first)


def test_answers_that_are_missing_or_too_few_are_an_error():
    built = Made()
    built.add(answering(0.8))
    built.add(answering(0.8), "dare", 0, 0, 0.5)
    built.answers["recipe 1", "trec"] = answering(0.8)[:-1]
    with pytest.raises(DataError, match="recipe 1 has 39 stored answers to 40 examples of trec"):
        built.compared()
    del built.answers["recipe 1", "trec"]
    with pytest.raises(DataError, match="recipe 1 has 0 stored answers"):
        built.compared()


def test_answers_and_labels_are_read_from_their_files(tmp_path):
    examples = pd.DataFrame({"split": ["train", "test", "test"], "label": [0, 1, 0]})
    examples.to_parquet(tmp_path / "sst-2.v1.parquet")
    assert read_labels([tmp_path / "sst-2.v1.parquet"])["sst-2.v1"].tolist() == [1, 0]
    predictions = pd.DataFrame(
        {"recipe_digest": ["x"], "head": ["sst"], "task": ["t"], "predictions": [[1.0, 0.0]]}
    )
    predictions.to_parquet(tmp_path / "predictions.parquet")
    records = pd.DataFrame(
        [
            ("y", "gsm8k", name, sample, split, value)
            for name, split, value in (("b", "test", 0.5), ("v", "validation", 1), ("a", "test", 1))
            for sample in (0, 1)
        ],
        columns=["recipe_digest", "benchmark", "id", "sample", "split", "value"],
    )
    records.to_parquet(tmp_path / "records.parquet")
    actual = read_answers([tmp_path / "predictions.parquet"], [tmp_path / "records.parquet"])
    assert {key: values.tolist() for key, values in actual.items()} == {
        ("x", "sst"): [1, 0],
        ("y", "gsm8k"): [1, 0.5],
    }
