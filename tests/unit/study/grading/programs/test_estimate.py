from itertools import combinations

import pytest

from mergegrid.errors import DataError
from mergegrid.study.grading.programs.estimate import pass_at_k

SAMPLES = [
    [True, False, False, True, False],
    [False, False, False, False],
    [True, True, True],
    [False, True, False, False, False, False],
]


@pytest.mark.parametrize("passed", SAMPLES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_is_the_share_of_choices_that_solve_a_problem(passed, k):
    choices = list(combinations(passed, k))
    share = sum(any(choice) for choice in choices) / len(choices)
    assert pass_at_k(passed, k) == pytest.approx(share)


@pytest.mark.parametrize(("passed", "k"), [([], 1), ([True], 2), ([True], 0)])
def test_k_must_be_between_one_and_the_number_of_samples(passed, k):
    with pytest.raises(DataError, match=rf"pass@{k} .* {len(passed)} samples.* between 1 and"):
        pass_at_k(passed, k)
