from itertools import combinations
from math import isnan, sqrt

import pytest

from mergegrid.errors import DataError
from mergegrid.study.grading.programs.estimate import pass_at_k

SAMPLES = [
    [True, False, False, True, False],
    [False, False, False, False],
    [True, True, True],
    [False, True, False, False, False, False],
]


def by_counting(samples, k):
    """The share of all choices of k samples with one that passed."""
    choices = list(combinations(samples, k))
    return sum(any(choice) for choice in choices) / len(choices)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_is_the_share_of_choices_that_solve_a_problem(k):
    values = [by_counting(each, k) for each in SAMPLES]
    mean = sum(values) / 4
    error = sqrt(sum((value - mean) ** 2 for value in values) / 3 / 4)
    assert pass_at_k(SAMPLES, k) == pytest.approx((mean, error))


def test_with_one_sample_it_is_the_share_of_problems_and_its_binomial_error():
    value, error = pass_at_k([[True]] * 30 + [[False]] * 70, 1)
    assert value == pytest.approx(0.3)
    assert error == pytest.approx(sqrt(0.3 * 0.7 / 99))


def test_one_problem_has_no_standard_error():
    value, error = pass_at_k([[True, False]], 1)
    assert value == 0.5
    assert isnan(error)


@pytest.mark.parametrize(
    ("samples", "k", "said"),
    [
        ([], 1, "no problems"),
        ([[True, True], [True]], 2, "problem 1 has 1 samples"),
        ([[True]], 0, "k of 1 or more"),
    ],
)
def test_what_cannot_be_estimated_is_refused(samples, k, said):
    with pytest.raises(DataError, match=said):
        pass_at_k(samples, k)
