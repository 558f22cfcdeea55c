"""Variances of differences, against formulas and computations by hand."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from mergegrid.study.scoring.levels import (
    Between,
    Contrast,
    Estimate,
    Measured,
    Part,
    TaskOutcomes,
    estimate,
    for_other_experts,
    measure,
)
from mergegrid.study.scoring.outcomes import mean_errors


def answers(*models):
    """One task, answered by models 0, 1, ...; every answer has a value."""
    outcomes = np.array(models, dtype=np.float64)
    return TaskOutcomes(np.arange(len(models)), mean_errors(outcomes), outcomes)


def measured(contrast, *tasks, values=None):
    if values is None:
        (task,) = tasks
        values = task.outcomes.mean(axis=1)
    (found,) = measure([contrast], values, tasks)
    return found


def estimated(contrast, *tasks, values=None):
    """The estimate of a difference on the only set."""
    found = measured(contrast, *tasks, values=values)
    return estimate(found, [found], 1.0, over_sets=False)


PAIR = Contrast(np.array([0, 1]), np.array([1.0, -1.0]))


def test_two_models_are_compared_by_a_paired_t_test_with_one_example_more():
    random = np.random.default_rng(0)
    one, two = random.normal(size=(2, 400))
    one += 0.2
    found = estimated(PAIR, answers(one, two))
    change = one - two
    assert found.difference == pytest.approx(change.mean())
    expected = change.var(ddof=1) / 400 + (change**2).max() / 400**2
    assert found.variance == found.parts["examples"].variance == pytest.approx(expected)
    # The example more is one of 400.
    assert found.p == pytest.approx(ttest_rel(one, two).pvalue, rel=0.2)
    low, high = found.interval(0.95)
    assert (low + high) / 2 == pytest.approx(found.difference)
    assert (low > 0) == (found.p < 0.05)


@pytest.mark.parametrize(
    ("worse", "exact"), [(4, 0.125), (5, 0.0625), (6, 0.03125), (8, 0.0078125)]
)
def test_few_differing_examples_are_about_as_certain_as_an_exact_test(worse, exact):
    two = np.ones(100)
    two[:worse] = 0
    assert exact / 2 < estimated(PAIR, answers(np.ones(100), two)).p < 3 * exact


def test_models_that_answer_alike_may_still_differ_by_a_few_examples():
    low, high = estimated(PAIR, answers(np.ones(100), np.ones(100))).interval(0.95)
    # With 3 % of differing examples, 5 % of all samples of 100 have none.
    assert -low == high >= 0.03


def seeds(count, level):
    """Two recipes with one model per seed: models 0, 1, ... and the others after them."""
    sides = np.repeat([1.0, -1.0], count)
    others = np.stack([np.tile(np.arange(count) != seed, 2) for seed in range(count)])
    return Contrast(np.arange(2 * count), sides / count, {level: others * sides / (count - 1)})


def test_the_variance_between_seeds_is_that_of_their_mean():
    """Three training seeds of two models, without any uncertainty of the examples."""
    changes = np.array([0.03, 0.01, 0.08])
    values = np.concatenate([0.5 + changes, np.full(3, 0.5)])
    task = TaskOutcomes(np.arange(6), np.zeros((6, 4)), np.eye(6, 4))
    found = estimated(seeds(3, "training"), task, values=values)
    assert found.parts["training"].variance == pytest.approx(changes.var(ddof=1) / 3)
    assert found.difference == pytest.approx(changes.mean())
    assert found.variance == pytest.approx(sum(part.variance for part in found.parts.values()))


def test_seeds_that_differ_only_by_chance_add_no_variance():
    random = np.random.default_rng(1)
    contrast, beyond, examples = seeds(20, "masks"), [], []
    for _ in range(200):
        outcomes = (random.random((40, 50)) < 0.7).astype(np.float64)
        found = measured(contrast, answers(*outcomes))
        beyond.append(found.between["masks"].variance - found.between["masks"].explained)
        examples.append(found.examples.variance)
    assert abs(np.mean(beyond)) < 0.05 * np.mean(examples)


def test_degrees_of_freedom_are_those_of_the_level_that_counts():
    values = np.array([0.9, 0.5, 0.5, 0.5])
    task = TaskOutcomes(np.arange(4), np.zeros((4, 1000)), np.zeros((4, 1000)))
    found = estimated(seeds(2, "training"), task, values=values)
    assert found.df == pytest.approx(1, abs=0.01)
    # Two seeds say little: t(1) has wide tails.
    assert found.p > 0.2


def test_the_variance_of_seeds_is_averaged_over_sets_and_divided_in_their_mean():
    def on_a_set(variance, explained):
        return Measured(0.02, Part(1e-4, 1e-10), {"masks": Between(variance, explained, 3)})

    sets = [on_a_set(5e-4, 1e-4), on_a_set(2e-4, 3e-4)]
    one = estimate(sets[0], sets, 2.0, over_sets=False)
    assert one.parts["masks"].variance == pytest.approx((4e-4 - 1e-4) / 2)
    # Two independent sets with two degrees of freedom each.
    assert one.parts["masks"].uncertainty == pytest.approx(3.5e-4**2 / 4)
    whole = Measured(0.02, Part(5e-5, 1e-11), {"sets": Between(1e-3, 1e-4, 4)})
    mean = estimate(whole, sets, 2.0, over_sets=True)
    assert mean.parts["masks"].variance == pytest.approx(one.parts["masks"].variance / 2)
    assert set(mean.parts) == {"examples", "masks"}


def test_for_other_experts_the_spread_between_these_counts_if_it_is_larger():
    found = Estimate(0.02, {"examples": Part(1e-4, 1e-10)})
    wide = for_other_experts(found, Between(4e-4, 1e-4, 4))
    assert (wide.variance, wide.df) == (pytest.approx(4e-4), pytest.approx(3))
    assert for_other_experts(found, Between(1e-5, 1e-6, 4)).variance == found.variance
    low, high = found.interval(0.95)
    low_others, high_others = wide.interval(0.95)
    assert low_others < low < high < high_others


def test_tasks_are_independent_and_each_is_read_once():
    random = np.random.default_rng(2)
    parts = [(random.random((2, 30)) < 0.6).astype(np.float64) for _ in range(2)]
    contrast = Contrast(np.arange(4), np.array([0.5, -0.5, 0.5, -0.5]))
    tasks = [
        TaskOutcomes(np.array([2 * place, 2 * place + 1]), mean_errors(part), part)
        for place, part in enumerate(parts)
    ]
    values = np.concatenate([part.mean(axis=1) for part in parts])
    (both,) = measure([contrast], values, iter(tasks))
    alone = [measured(PAIR, answers(*part)) for part in parts]
    assert both.examples.variance == pytest.approx(sum(one.examples.variance for one in alone) / 4)
    assert both.difference == pytest.approx(sum(one.difference for one in alone) / 2)


def test_among_many_sides_degrees_of_freedom_are_at_least_those_of_the_seeds():
    """What is left of 10 without the explained 9.9 has far fewer than one."""
    whole = Measured(1.0, Part(0.5, 0.01), {})
    sets = [Measured(1.0, Part(0.5, 0.01), {"masks": Between(10.0, 9.9, 3)})]
    found = estimate(whole, sets, 1.5, over_sets=False)
    assert found.variance == pytest.approx(0.6)
    assert found.df < 0.02
    certain = Estimate(1.0, {"examples": Part(0.6, 0.6**2 / 3)})
    assert found.interval(0.95, 5) == pytest.approx(certain.interval(0.95, 5))


def test_among_two_sides_an_interval_is_that_of_the_t_test():
    found = Estimate(1.0, {"examples": Part(0.2, 0.004)})
    assert found.interval(0.95, 2) == found.interval(0.95)
    assert found.differs(0.05, 2) == (found.p < 0.05)


@pytest.mark.parametrize(("sides", "df", "critical"), [(10, 20, 5.008), (20, 10, 6.467)])
def test_among_many_sides_the_studentized_range_takes_the_place_of_t(sides, df, critical):
    """Critical values of printed tables; degrees of freedom may be rounded down by 10 %."""
    found = Estimate(1.0, {"examples": Part(1.0, 1 / df)})
    low, high = found.interval(0.95, sides)
    assert 1 <= (high - low) / 2 / (critical / 2**0.5) < 1.03
    for factor, expected in ((0.99, False), (1.03, True)):
        gap = Estimate(factor * critical / 2**0.5, found.parts)
        assert gap.differs(0.05, sides) is expected
