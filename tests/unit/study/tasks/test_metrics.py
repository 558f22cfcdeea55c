import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.study.tasks.metrics import METRICS, predictions_of, score, standard_error

LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 0, 0, 0, 0, 0, 1])


def test_classification_metrics_of_a_table_computed_by_hand():
    # True positives 2, false negatives 1, false positives 1, true negatives 4.
    assert score("accuracy", LABELS, PREDICTIONS) == 6 / 8
    assert score("f1", LABELS, PREDICTIONS) == pytest.approx(2 / 3)
    assert score("accuracy_and_f1", LABELS, PREDICTIONS) == pytest.approx((6 / 8 + 2 / 3) / 2)
    assert score("matthews", LABELS, PREDICTIONS) == pytest.approx((2 * 4 - 1 * 1) / 15)


def test_regression_metrics_of_numbers_computed_by_hand():
    labels, predictions = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0])
    assert score("pearson", labels, predictions) == pytest.approx(0.8)
    assert score("spearman", labels, predictions) == pytest.approx(0.8)
    assert score("pearson_and_spearman", labels, predictions**3) == pytest.approx(
        (np.corrcoef(labels, predictions**3)[0, 1] + 0.8) / 2
    )


@pytest.mark.parametrize("metric", METRICS)
def test_a_constant_prediction_has_a_score_that_is_a_number(metric):
    constant = np.zeros(8) if metric.startswith(("pearson", "spearman")) else np.zeros(8, int)
    assert 0 <= score(metric, LABELS, constant) < 1
    assert np.isfinite(standard_error(metric, LABELS, constant))


@given(wrong=st.integers(0, 200))
def test_the_standard_error_of_accuracy_is_binomial(wrong):
    labels = np.zeros(200, int)
    predictions = (np.arange(200) < wrong).astype(int)
    share = 1 - wrong / 200
    expected = np.sqrt(share * (1 - share) / 199)
    assert standard_error("accuracy", labels, predictions) == pytest.approx(expected)


def test_the_standard_error_of_a_correlation_is_near_that_of_normal_theory():
    generator = np.random.default_rng(0)
    labels = generator.normal(size=2000)
    predictions = labels + generator.normal(size=2000)
    correlation = score("pearson", labels, predictions)
    expected = (1 - correlation**2) / np.sqrt(2000)
    assert standard_error("pearson", labels, predictions) == pytest.approx(expected, rel=0.25)


def test_the_standard_error_equals_leaving_each_example_out():
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, 2, (2, 60))
    left_out = [
        score("matthews", np.delete(labels, i), np.delete(predictions, i)) for i in range(60)
    ]
    expected = np.sqrt(59 / 60 * np.sum((left_out - np.mean(left_out)) ** 2))
    assert standard_error("matthews", labels, predictions) == pytest.approx(expected)


def test_classes_are_the_largest_logit_and_numbers_the_only_output():
    logits = np.array([[0.1, 0.9], [2.0, -1.0]])
    assert predictions_of(logits, "accuracy").tolist() == [1, 0]
    assert predictions_of(logits[:, :1], "pearson").tolist() == [0.1, 2.0]
