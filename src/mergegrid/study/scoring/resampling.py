"""Metrics on resamples of the test examples: all resamples and all models at once.

A resample is how often each example was drawn. Metrics of classes are made of counts, which are
products of matrices; correlations of sums of products, and of ranks with equal ones in their
middle.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mergegrid.hashing import digest
from mergegrid.study.schema.tasks import Metric

Floats = NDArray[np.float64]
Times = NDArray[np.float64]
"""How often each example was drawn, [resamples, examples]."""
OnResamples = Callable[[Times], Floats]
"""Values of some models, [models, resamples]."""
#: Resamples that are looked at together: more do not stay near the processor.
_TOGETHER = 200


def generator(content: object) -> np.random.Generator:
    """Random numbers that follow from what they are for."""
    return np.random.Generator(np.random.Philox(int(digest(content)[:32], 16)))


def resampled(
    metric: Metric | None,
    labels: Floats | None,
    predictions: Floats,
    resamples: int,
    random: np.random.Generator,
) -> Floats:
    """Values of a metric, [models, resamples], where all models see the same resamples.

    Args:
        metric: metric of the task; none for the mean of what is in `predictions`.
        labels: of each example [examples].
        predictions: of each model [models, examples].
        resamples: how often as many examples as there are are drawn, with replacement.
        random: draws them.
    """
    models, count = predictions.shape
    if metric is None or labels is None:
        parts: list[OnResamples] = [lambda times: predictions @ times.T / count]
    else:
        parts = [part(labels, predictions) for part in _METRICS[metric]]
    values = np.empty((models, resamples))
    for start in range(0, resamples, _TOGETHER):
        size = min(_TOGETHER, resamples - start)
        drawn = random.integers(count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        flat = np.bincount(drawn.ravel(), minlength=size * count)
        times = flat.reshape(size, count).astype(np.float64)
        values[:, start : start + size] = np.mean([part(times) for part in parts], axis=0)
    return values


def _counter(where: NDArray[np.bool_]) -> OnResamples:
    """Counts how often an example of each row of `where` was drawn."""
    # Whole numbers below 2**24 are exact in float32, where products are twice as fast.
    rows = np.atleast_2d(where).astype(np.float32)
    return lambda times: (rows @ times.T.astype(np.float32)).astype(np.float64)


def _accuracy(labels: Floats, predictions: Floats) -> OnResamples:
    right = _counter(predictions == labels)
    return lambda times: right(times) / labels.size


def _f1(labels: Floats, predictions: Floats) -> OnResamples:
    """Class 1 is the one to find."""
    found = _counter((predictions == 1) & (labels == 1))
    truth, answer = _counter(labels == 1), _counter(predictions == 1)
    return lambda times: _divided(2 * found(times), truth(times) + answer(times))


def _matthews(labels: Floats, predictions: Floats) -> OnResamples:
    """Of any number of classes (Gorodkin 2004)."""
    count = labels.size
    right = _counter(predictions == labels)
    classes = np.unique(np.concatenate([labels, np.unique(predictions)]))
    counters = [(_counter(labels == each), _counter(predictions == each)) for each in classes]

    def values(times: Times) -> Floats:
        chance, of_labels, of_predictions = np.zeros((3, len(predictions), len(times)))
        for truth, answer in counters:
            both = truth(times), answer(times)
            chance += both[0] * both[1]
            of_labels += both[0] ** 2
            of_predictions += both[1] ** 2
        spread = np.sqrt((count**2 - of_labels) * (count**2 - of_predictions))
        return _divided(count * right(times) - chance, spread)

    return values


def _pearson(labels: Floats, predictions: Floats) -> OnResamples:
    # From one of the values, so that a constant is exactly 0.
    truth, answer = labels - labels[0], predictions - predictions[:, :1]
    count = labels.size

    def spread(total: Floats, squares: Floats) -> Floats:
        found = count * squares - total**2
        # What is left of a constant by rounding is no spread.
        return np.where(found > 1e-12 * count * squares, found, 0.0)

    def values(times: Times) -> Floats:
        totals = times @ truth, answer @ times.T
        of_labels = spread(totals[0], times @ truth**2)
        of_answers = spread(totals[1], answer**2 @ times.T)
        product = count * ((answer * truth) @ times.T) - totals[0] * totals[1]
        return _divided(product, np.sqrt(of_labels * of_answers))

    return values


def _spearman(labels: Floats, predictions: Floats) -> OnResamples:
    groups = [_groups(each) for each in predictions]
    order, first, place = _groups(labels)

    def values(times: Times) -> Floats:
        drawn = np.ascontiguousarray(times.T)
        truth = _middles(_together(drawn[order], first))[place]
        weighed = drawn * truth
        of_labels = np.einsum("ij,ij->j", weighed, truth)
        found = np.empty((len(groups), len(times)))
        for index, (own_order, own_first, _) in enumerate(groups):
            together = _together(drawn[own_order], own_first)
            answer = _middles(together)
            product = np.einsum("ij,ij->j", answer, _together(weighed[own_order], own_first))
            of_answers = np.einsum("ij,ij,ij->j", answer, answer, together)
            found[index] = _divided(product, np.sqrt(of_labels * of_answers))
        return found

    return values


def _groups(values: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """The order of values, where equal ones start in it, and the group of each value."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(values, kind="stable")
    return order, np.searchsorted(values[order], distinct), place


def _together(ordered: Floats, first: NDArray[np.intp]) -> Floats:
    # Numbers seldom have equals, and adding up each alone is slow.
    if len(first) == len(ordered):
        return ordered
    sums: Floats = np.add.reduceat(ordered, first)
    return sums


def _middles(drawn: Floats) -> Floats:
    """Rank that equal values share, from the middle of all, [groups, resamples]; the mean is 0."""
    middles: Floats = np.cumsum(drawn, axis=0) - (drawn - 1) / 2 - (drawn.sum(axis=0) + 1) / 2
    return middles


def _divided(above: Floats, below: Floats) -> Floats:
    """A quotient; 0 where nothing is below, as the metrics of tasks have it."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


#: A metric is the mean of these.
_METRICS: dict[Metric, tuple[Callable[[Floats, Floats], OnResamples], ...]] = {
    "accuracy": (_accuracy,),
    "matthews": (_matthews,),
    "f1": (_f1,),
    "accuracy_and_f1": (_accuracy, _f1),
    "pearson": (_pearson,),
    "spearman": (_spearman,),
    "pearson_and_spearman": (_pearson, _spearman),
}
