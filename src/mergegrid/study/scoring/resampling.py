"""Metrics on resamples of the test examples, for all resamples and models at once.

A resample is given by the number of times that each example was drawn. Metrics of classes reduce to
counts, which are matrix products; correlations reduce to sums of products, of values or of ranks
(equal values share their mean rank).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mergegrid.hashing import digest
from mergegrid.study.schema.tasks import Metric

Floats = NDArray[np.float64]
Draws = NDArray[np.float64]
"""Number of times that each example was drawn, [resamples, examples]."""
OnResamples = Callable[[Draws], Floats]
"""Function from draws to the values of all models, [models, resamples]."""
_BLOCK = 200
"""Number of resamples evaluated at once; more do not fit into the cache."""


def generator(content: object) -> np.random.Generator:
    """Make a random generator that is seeded by a description of its use."""
    return np.random.Generator(np.random.Philox(int(digest(content)[:32], 16)))


def resampled(
    metric: Metric | None,
    labels: Floats | None,
    predictions: Floats,
    resamples: int,
    random: np.random.Generator,
) -> Floats:
    """Compute a metric on resamples, the same for all models: [models, resamples].

    Args:
        metric: metric of the task; None for the mean of `predictions`.
        labels: label of each example, [examples].
        predictions: predictions of each model, [models, examples].
        resamples: number of resamples, each as large as the set of examples.
        random: source of the draws.
    """
    models, count = predictions.shape
    if metric is None or labels is None:
        parts: list[OnResamples] = [lambda draws: predictions @ draws.T / count]
    else:
        parts = [part(labels, predictions) for part in _METRICS[metric]]
    values = np.empty((models, resamples))
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        examples = random.integers(count, size=(size, count))
        examples += np.arange(size)[:, None] * count
        flat = np.bincount(examples.ravel(), minlength=size * count)
        draws = flat.reshape(size, count).astype(np.float64)
        values[:, start : start + size] = np.mean([part(draws) for part in parts], axis=0)
    return values


def _counter(where: NDArray[np.bool_]) -> OnResamples:
    """Count the draws of the examples in each row of `where`."""
    # Integers below 2**24 are exact in float32, in which products are twice as fast.
    rows = np.atleast_2d(where).astype(np.float32)
    return lambda draws: (rows @ draws.T.astype(np.float32)).astype(np.float64)


def _accuracy(labels: Floats, predictions: Floats) -> OnResamples:
    right = _counter(predictions == labels)
    return lambda draws: right(draws) / labels.size


def _f1(labels: Floats, predictions: Floats) -> OnResamples:
    """F1 of class 1."""
    hits = _counter((predictions == 1) & (labels == 1))
    truth, answer = _counter(labels == 1), _counter(predictions == 1)
    return lambda draws: _ratio(2 * hits(draws), truth(draws) + answer(draws))


def _matthews(labels: Floats, predictions: Floats) -> OnResamples:
    """Matthews correlation for any number of classes (Gorodkin 2004)."""
    count = labels.size
    right = _counter(predictions == labels)
    classes = np.unique(np.concatenate([labels, np.unique(predictions)]))
    counters = [(_counter(labels == label), _counter(predictions == label)) for label in classes]

    def values(draws: Draws) -> Floats:
        chance, of_labels, of_predictions = np.zeros((3, len(predictions), len(draws)))
        for count_labels, count_predictions in counters:
            true, predicted = count_labels(draws), count_predictions(draws)
            chance += true * predicted
            of_labels += true**2
            of_predictions += predicted**2
        spread = np.sqrt((count**2 - of_labels) * (count**2 - of_predictions))
        return _ratio(count * right(draws) - chance, spread)

    return values


def _pearson(labels: Floats, predictions: Floats) -> OnResamples:
    # Shifted by one of the values, so that a constant is exactly 0.
    truth, answer = labels - labels[0], predictions - predictions[:, :1]
    count = labels.size

    def spread(total: Floats, squares: Floats) -> Floats:
        difference = count * squares - total**2
        # A constant has no spread; rounding may leave a little.
        return np.where(difference > 1e-12 * count * squares, difference, 0.0)

    def values(draws: Draws) -> Floats:
        totals = draws @ truth, answer @ draws.T
        of_labels = spread(totals[0], draws @ truth**2)
        of_answers = spread(totals[1], answer**2 @ draws.T)
        product = count * ((answer * truth) @ draws.T) - totals[0] * totals[1]
        return _ratio(product, np.sqrt(of_labels * of_answers))

    return values


def _spearman(labels: Floats, predictions: Floats) -> OnResamples:
    order, starts, group = _groups(labels)
    groups = [_groups(row) for row in predictions]

    def values(draws: Draws) -> Floats:
        drawn = np.ascontiguousarray(draws.T)  # [examples, resamples]
        truth = _mean_ranks(_sum_groups(drawn[order], starts))[group]
        weighted = drawn * truth
        of_labels = np.einsum("ij,ij->j", weighted, truth)
        correlations = np.empty((len(groups), len(draws)))
        for model, (model_order, model_starts, _) in enumerate(groups):
            sizes = _sum_groups(drawn[model_order], model_starts)  # [groups, resamples]
            answer = _mean_ranks(sizes)
            sums = _sum_groups(weighted[model_order], model_starts)
            product = np.einsum("ij,ij->j", answer, sums)
            of_answers = np.einsum("ij,ij,ij->j", answer, answer, sizes)
            correlations[model] = _ratio(product, np.sqrt(of_labels * of_answers))
        return correlations

    return values


def _groups(values: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Group equal values: their sorting order, the start of each group in it, the group of each."""
    distinct, group = np.unique(values, return_inverse=True)
    order = np.argsort(values, kind="stable")
    return order, np.searchsorted(values[order], distinct), group


def _sum_groups(ordered: Floats, starts: NDArray[np.intp]) -> Floats:
    # Numbers are rarely equal, and `reduceat` is slow for groups of one.
    if len(starts) == len(ordered):
        return ordered
    sums: Floats = np.add.reduceat(ordered, starts)
    return sums


def _mean_ranks(sizes: Floats) -> Floats:
    """Compute the centered rank that each group of values shares, [groups, resamples]."""
    ranks: Floats = np.cumsum(sizes, axis=0) - (sizes - 1) / 2 - (sizes.sum(axis=0) + 1) / 2
    return ranks


def _ratio(above: Floats, below: Floats) -> Floats:
    """Divide; 0 where the divisor is not positive, as in the metrics of tasks."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


#: The parts whose mean is the metric.
_METRICS: dict[Metric, tuple[Callable[[Floats, Floats], OnResamples], ...]] = {
    "accuracy": (_accuracy,),
    "matthews": (_matthews,),
    "f1": (_f1,),
    "accuracy_and_f1": (_accuracy, _f1),
    "pearson": (_pearson,),
    "spearman": (_spearman,),
    "pearson_and_spearman": (_pearson, _spearman),
}
