"""Metrics of encoder tasks, with standard errors."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from mergegrid.study.schema.tasks import REGRESSION_METRICS, Metric

Array = NDArray[Any]
MetricFunction = Callable[[Array, Array], float]
_GROUPS = 100


def _correlation(function: Callable[[Array, Array], Any]) -> MetricFunction:
    def correlation(labels: Array, predictions: Array) -> float:
        # Constants have no correlation; they count as uncorrelated.
        if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
            return 0.0
        return float(function(labels, predictions).statistic)

    return correlation


def _mean(*functions: MetricFunction) -> MetricFunction:
    return lambda labels, predictions: float(
        np.mean([function(labels, predictions) for function in functions])
    )


def _matthews(labels: Array, predictions: Array) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        return float(matthews_corrcoef(labels, predictions))


def _f1(labels: Array, predictions: Array) -> float:
    return float(f1_score(labels, predictions, zero_division=0.0))


def _accuracy(labels: Array, predictions: Array) -> float:
    return float(accuracy_score(labels, predictions))


_pearson, _spearman = _correlation(pearsonr), _correlation(spearmanr)
METRICS: dict[Metric, MetricFunction] = {
    "accuracy": _accuracy,
    "matthews": _matthews,
    "f1": _f1,
    "accuracy_and_f1": _mean(_accuracy, _f1),
    "pearson": _pearson,
    "spearman": _spearman,
    "pearson_and_spearman": _mean(_pearson, _spearman),
}


def predictions_of(logits: Array, metric: Metric) -> Array:
    """Convert logits [n, classes] to classes (argmax) or numbers (the single output).

    Logits that are not finite count as 0.
    """
    logits = np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0)
    if metric in REGRESSION_METRICS:
        return logits[:, 0]
    predictions: Array = logits.argmax(axis=1)
    return predictions


def score(metric: Metric, labels: Array, predictions: Array) -> float:
    """Compute a metric of n labels and n predictions."""
    return METRICS[metric](labels, predictions)


def standard_error(metric: Metric, labels: Array, predictions: Array) -> float:
    """Standard error of a metric over the examples, by the jackknife (Efron and Stein 1981).

    For classes, single examples are left out; for numbers, each of 100 groups of examples.
    """
    count = len(labels)
    if metric in REGRESSION_METRICS:
        groups = np.arange(count) % min(count, _GROUPS)
        left_out: list[Array] = [groups == group for group in range(groups.max() + 1)]
        times: Array = np.ones(len(left_out))
    else:
        # Examples with the same label and prediction change the metric by the same amount.
        pairs = np.stack([labels, predictions], axis=1)
        _, first, times = np.unique(pairs, axis=0, return_index=True, return_counts=True)
        left_out = [np.arange(count) == index for index in first]
    values = np.array([score(metric, labels[~out], predictions[~out]) for out in left_out])
    total = times.sum()
    mean = (times * values).sum() / total
    return float(np.sqrt((total - 1) / total * (times * (values - mean) ** 2).sum()))
