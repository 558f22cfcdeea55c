"""Samplers: which points of a space of ranges to evaluate next.

A sampler is a function of its seed and of the values that it was told, so a search that was
interrupted is repeated from its start with stored scores, and goes on as if it had not been.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mergegrid.progress import progress
from mergegrid.study.schema.sampling import Range, Sampled

STAGE_VERSIONS = {"sample": 1}

Point = dict[str, float]
"""A number for each range, by its place in the recipe."""


class Sampler(Protocol):
    """Draws points in batches."""

    def ask(self, count: int) -> list[Point]:
        """Draw the next points."""

    def tell(self, values: Sequence[float]) -> None:
        """Take the scores of the points drawn last; larger is better."""


def sampler_of(sampled: Sampled) -> Sampler:
    """Make the sampler of a configuration."""
    space = sampled.space()
    if sampled.sampler == "tpe":
        return _Tpe(space, sampled.seed)
    if sampled.sampler == "sobol":
        return _Uniform(space, _sobol(len(space), sampled.seed))
    return _Uniform(space, _random(len(space), sampled.seed))


class _Uniform:
    """Points that do not depend on scores."""

    def __init__(self, space: Mapping[str, Range], draw: Callable[[int], NDArray[Any]]) -> None:
        self._space, self._draw = space, draw

    def ask(self, count: int) -> list[Point]:
        names = list(self._space)
        return [
            {
                name: self._space[name].at(float(place))
                for name, place in zip(names, row, strict=True)
            }
            for row in self._draw(count)
        ]

    def tell(self, values: Sequence[float]) -> None:
        """Nothing depends on scores."""


def _random(dimensions: int, seed: int) -> Callable[[int], NDArray[Any]]:
    generator = np.random.Generator(np.random.Philox(seed))
    return lambda count: generator.random((count, dimensions))


def _sobol(dimensions: int, seed: int) -> Callable[[int], NDArray[Any]]:
    from scipy.stats.qmc import Sobol

    points = Sobol(dimensions, scramble=True, rng=np.random.Generator(np.random.Philox(seed)))

    def draw(count: int) -> NDArray[Any]:
        with warnings.catch_warnings():
            # Only powers of two are perfectly even; any number may be asked for.
            warnings.simplefilter("ignore", category=UserWarning)
            drawn: NDArray[Any] = points.random(count)
        return drawn

    return draw


class _Tpe:
    """Tree-structured Parzen Estimator (Bergstra et al. 2011), of Optuna."""

    def __init__(self, space: Mapping[str, Range], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Points of a batch that have no score yet count as bad, so that they differ.
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._space = space
        self._distributions: dict[str, Any] = {
            name: optuna.distributions.FloatDistribution(part.low, part.high, log=part.log)
            for name, part in space.items()
        }
        self._trials: list[Any] = []

    def ask(self, count: int) -> list[Point]:
        self._trials = [self._study.ask(self._distributions) for _ in range(count)]
        return [
            {name: self._space[name].rounded(trial.params[name]) for name in self._space}
            for trial in self._trials
        ]

    def tell(self, values: Sequence[float]) -> None:
        for trial, value in zip(self._trials, values, strict=True):
            self._study.tell(trial, value)


def best_point(sampled: Sampled, evaluate: Callable[[Point], float], description: str) -> Point:
    """Evaluate as many points as the budget allows, batch by batch; return the first best one."""
    sampler, values = sampler_of(sampled), list[tuple[float, Point]]()
    for start in range(0, sampled.budget, sampled.batch):
        points = sampler.ask(min(sampled.batch, sampled.budget - start))
        scores = [evaluate(point) for point in progress(points, description, len(points))]
        sampler.tell(scores)
        values += zip(scores, points, strict=True)
    return max(values, key=lambda pair: pair[0])[1]
