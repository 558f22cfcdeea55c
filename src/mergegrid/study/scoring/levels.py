"""Uncertainty of a difference between scores, level by level.

A difference of mean scores is uncertain because other test examples, mask seeds, training seeds or
experts would give another one. Scores of several seeds on one set of examples are not independent,
nor are those of sets that share experts, so each level has a variance of its own:

- examples: covariance of the models' scores over test examples (`TaskOutcomes.errors`);
- masks, training: the jackknife on one set of experts, without each seed in turn. Of the variance
  between the results, what the examples alone explain is subtracted. Seeds are few, so what is left
  is averaged over all sets that the same recipes merged. Seeds act on experts independently: the
  mean over sets has that variance divided by the number of independent sets;
- sets: the jackknife over experts, without each expert and all sets that have it. It contains all
  other levels, as each expert has its seeds and its task has examples; it is needed only for
  statements about other experts.

A level with a single unit has no variance that could be measured, and is not part of the interval.
The sum of the variances has a t distribution with the degrees of freedom of Satterthwaite (1946).
Where all pairs of several sides are compared at once, the studentized range takes the place of t
(Games and Howell 1976), with no fewer degrees of freedom than the seeds have: what is left of a
difference of two variances may have less than one, for which the range is of any size.

Few differing examples say little about their variance: 5 of 100 that all favor one model would look
certain. So one more is added, like the one that differs most (Agresti and Min 2005 do so for pairs
of proportions), and the degrees of freedom are twice the number of differing examples with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

SEEDS = ("masks", "training")
"""Levels of seeds."""


@dataclass(frozen=True)
class Contrast:
    """A difference between two weighted means of scores."""

    models: Indices
    """Models that have a weight, [models]."""
    weights: Floats
    """Weight of the score of each, [models]; those of each side sum to 1 and -1."""
    left_out: Mapping[str, Floats] = field(default_factory=dict)
    """By level, the weights without each of its units in turn, [units, models]; of 2 or more."""


@dataclass(frozen=True)
class TaskOutcomes:
    """Test answers of all models that were scored on one task."""

    models: Indices
    """Numbers of the models, [models]."""
    errors: Floats
    """Deviations of their scores, [models, draws]: `errors @ errors.T` is the covariance of the
    scores over samples of test examples."""
    outcomes: Floats
    """How right each answer is, [models, examples]: 1 or 0 for classes. Differences show on which
    examples two models differ."""


@dataclass(frozen=True)
class Part:
    """Variance of a difference due to one level."""

    variance: float
    uncertainty: float
    """Square of the estimated variance divided by its degrees of freedom."""


@dataclass(frozen=True)
class Between:
    """Jackknife of one level."""

    variance: float
    """Variance of the mean over the units, as it differs between them."""
    explained: float
    """The part of it that test examples alone explain."""
    units: int


@dataclass(frozen=True)
class Measured:
    """What was measured of a contrast."""

    difference: float
    examples: Part
    between: Mapping[str, Between]


@dataclass(frozen=True)
class Estimate:
    """A difference with its variances."""

    difference: float
    parts: Mapping[str, Part]
    """By level; levels that could not be measured are missing."""
    least_df: float = 0.0
    """Degrees of freedom of the level of seeds that has fewest."""

    @property
    def variance(self) -> float:
        """Variance of the difference."""
        return sum(part.variance for part in self.parts.values())

    @property
    def df(self) -> float:
        """Degrees of freedom of the t distribution."""
        return self.variance**2 / sum(part.uncertainty for part in self.parts.values())

    def interval(self, confidence: float, sides: int = 2) -> tuple[float, float]:
        """Interval that covers the difference with this probability.

        Of more than 2 sides, all intervals of differences between pairs of them hold at once.
        """
        half = _critical(confidence, sides, self._df(sides)) * self.variance**0.5
        return self.difference - half, self.difference + half

    @property
    def p(self) -> float:
        """Two-sided p-value of the t test of no difference."""
        from scipy.special import stdtr

        return 2 * float(stdtr(self.df, -abs(self.difference) / self.variance**0.5))

    def differs(self, level: float, sides: int) -> bool:
        """Whether the interval of confidence `1 - level` among so many sides excludes 0."""
        ratio = abs(self.difference) / self.variance**0.5
        # Mostly an interval of two sides, which is narrower and quick to compute, has 0 already.
        return all(ratio > _critical(1 - level, count, self._df(sides)) for count in (2, sides))

    def _df(self, sides: int) -> float:
        if sides == 2:
            return self.df
        # Rounded down to steps of 10 %, as each critical value takes long.
        step = np.log(1.1)
        return float(np.exp(step * np.floor(np.log(max(self.df, self.least_df)) / step)))


@cache
def _critical(confidence: float, sides: int, df: float) -> float:
    """Standard errors on each side of a difference; one of those between all pairs of sides."""
    from scipy.special import stdtrit
    from scipy.stats import studentized_range

    if sides == 2:
        return -float(stdtrit(df, (1 - confidence) / 2))
    return float(studentized_range.ppf(confidence, sides, df)) / 2**0.5


def estimate(
    whole: Measured, sets: Sequence[Measured], independent: float, over_sets: bool
) -> Estimate:
    """Estimate a difference for the experts at hand.

    Args:
        whole: the difference on one of the sets, or its mean over all.
        sets: the difference on each set.
        independent: number of independent sets.
        over_sets: whether `whole` is the mean over all sets.
    """
    parts = {"examples": whole.examples}
    share = 1 / independent if over_sets else 1.0
    least = 0.0
    for level in SEEDS:
        jackknifes = [one.between[level] for one in sets if level in one.between]
        if not jackknifes:
            continue
        variance = share * max(
            0.0, sum(one.variance - one.explained for one in jackknifes) / len(jackknifes)
        )
        total = share * sum(one.variance for one in jackknifes) / len(jackknifes)
        df = independent * sum(one.units - 1 for one in jackknifes) / len(jackknifes)
        parts[level] = Part(variance, total**2 / df if variance else 0.0)
        least = min(least or df, df)
    return Estimate(whole.difference, parts, least)


def for_other_experts(mean: Estimate, between: Between) -> Estimate:
    """Widen an estimate so that it also holds for other experts like those at hand.

    Args:
        mean: the mean over sets.
        between: the jackknife over experts, level `sets`.
    """
    variance = max(mean.variance, between.variance)
    return Estimate(mean.difference, {"sets": Part(variance, variance**2 / (between.units - 1))})


class _Sums:
    """Variances of one contrast, summed over tasks."""

    def __init__(self, contrast: Contrast) -> None:
        self.contrast = contrast
        self.examples = self.uncertainty = 0.0
        self.centered = {
            level: weights - weights.mean(axis=0) for level, weights in contrast.left_out.items()
        }
        self.explained = dict.fromkeys(contrast.left_out, 0.0)

    def add(self, task: TaskOutcomes, place: Indices) -> None:
        """Add a task; `place` gives the row of each model in it, or -1."""
        rows = place[self.contrast.models]
        of_task = np.flatnonzero(rows >= 0)
        if not len(of_task):
            return
        rows = rows[of_task]
        errors, weights = task.errors[rows], self.contrast.weights[of_task]
        count = task.outcomes.shape[1]
        squares = (weights @ task.outcomes[rows]) ** 2
        total, largest = squares.sum(), squares.max()
        if total < 1e-20:  # The two sides answer alike.
            largest, differing = weights[weights > 0].sum() ** 2, 0.0
        else:
            differing = total**2 / (squares**2).sum()
        variance = float(((weights @ errors) ** 2).sum() + largest / count**2)
        self.examples += variance
        self.uncertainty += variance**2 / max(1.0, min(2 * differing + 2, count - 1))
        for level, centered in self.centered.items():
            units = len(centered)
            spread = float(((centered[:, of_task] @ errors) ** 2).sum())
            self.explained[level] += (units - 1) / units * spread

    def measured(self, values: Floats) -> Measured:
        """Return what was measured, given the scores of all models."""
        of_models = values[self.contrast.models]
        between = {}
        for level, weights in self.contrast.left_out.items():
            units = len(weights)
            variance = (units - 1) * float((weights @ of_models).var())
            between[level] = Between(variance, self.explained[level], units)
        # Sums of equal terms differ in their last digits.
        difference = round(float(self.contrast.weights @ of_models), 12)
        return Measured(difference, Part(self.examples, self.uncertainty), between)


def measure(
    contrasts: Sequence[Contrast], values: Floats, tasks: Iterable[TaskOutcomes]
) -> list[Measured]:
    """Measure differences and their variances; each task is read once.

    Args:
        contrasts: differences to measure.
        values: score of every model, [all models].
        tasks: the answers of the models, task by task.
    """
    sums = [_Sums(contrast) for contrast in contrasts]
    for task in tasks:
        place = np.full(len(values), -1, dtype=np.intp)
        place[task.models] = np.arange(len(task.models))
        for part in sums:
            part.add(task, place)
    return [part.measured(values) for part in sums]
