"""Metrics on resamples against the task metric computed on each resample in turn."""

import numpy as np
import pytest

from mergegrid.study.schema.tasks import REGRESSION_METRICS
from mergegrid.study.scoring.resampling import generator, resampled
from mergegrid.study.tasks.metrics import METRICS, score

COUNT, RESAMPLES = 60, 230


def study(metric):
    """Return labels and three models: one informative, one constant, one with equal answers."""
    random = np.random.default_rng(0)
    if metric in REGRESSION_METRICS:
        labels = random.integers(0, 5, COUNT) / 2
        noisy = labels + random.normal(size=COUNT)
        return labels, np.stack([noisy, np.full(COUNT, 0.3), random.integers(0, 3, COUNT) * 0.7])
    classes = 2 if "f1" in metric else 4
    labels = random.integers(0, classes, COUNT) * 1.0
    noisy = np.where(random.random(COUNT) < 0.7, labels, random.integers(0, classes, COUNT))
    return labels, np.stack([noisy, np.zeros(COUNT), labels])


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_on_resamples_match_the_metric_of_the_task(metric):
    labels, predictions = study(metric)
    actual = resampled(metric, labels, predictions, RESAMPLES, generator("draw"))
    random = generator("draw")
    # The first 200 resamples are drawn together, then the rest.
    draws = np.concatenate([random.integers(COUNT, size=(size, COUNT)) for size in (200, 30)])
    kind = float if metric in REGRESSION_METRICS else int
    expected = [
        [score(metric, labels[draw].astype(kind), model[draw].astype(kind)) for draw in draws]
        for model in predictions
    ]
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_without_labels_the_mean_of_values_is_resampled():
    values = np.array([[0.0, 0.25, 1.0], [1.0, 1.0, 1.0]])
    actual = resampled(None, None, values, 50, generator("draw"))
    draws = generator("draw").integers(3, size=(50, 3))
    np.testing.assert_allclose(actual, [model[draws].mean(axis=1) for model in values])


def test_draws_are_determined_by_their_description():
    draws = [generator(text).integers(1000, size=5).tolist() for text in ("a", "a", "b")]
    assert draws[0] == draws[1] != draws[2]
