"""Which candidates are compared on which parts of a split."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mergegrid.errors import ConfigError
from mergegrid.study.schema.encoder_jobs import merges_request
from mergegrid.study.schema.racing import FINALISTS, Heat, Racing


def test_parts_double_while_candidates_halve():
    racing = Racing(start=0.125, keep=0.5, examples=1)
    assert racing.heats(16, [800]) == [
        Heat((100,), 8),
        Heat((200,), 4),
        Heat((400,), 2),
    ]


def test_a_third_is_kept_on_parts_three_times_as_large():
    racing = Racing(start=0.1, keep=1 / 3, examples=1)
    assert racing.heats(18, [1000]) == [Heat((100,), 6), Heat((300,), 2)]


def test_every_task_has_its_own_size_and_at_least_the_smallest():
    racing = Racing(start=0.125, keep=0.5, examples=40)
    assert [heat.sizes for heat in racing.heats(16, [800, 160])] == [
        (100, 40),
        (200, 40),
        (400, 80),
    ]


@pytest.mark.parametrize(
    ("candidates", "examples", "why"),
    [
        (FINALISTS, [10_000], "two candidates are compared on the whole split"),
        (8, [48], "two thirds of the split, and all of it again for half of the candidates"),
        (8, [20], "the smallest part is the whole split"),
    ],
)
def test_a_race_that_saves_nothing_is_not_run(candidates, examples, why):
    assert Racing().heats(candidates, examples) == [], why


@given(
    candidates=st.integers(1, 60),
    examples=st.lists(st.integers(1, 5000), min_size=1, max_size=3),
    start=st.floats(0.01, 0.9),
    keep=st.floats(0.1, 0.9),
    smallest=st.integers(1, 100),
)
def test_parts_are_nested_and_a_race_costs_less_than_the_grid(
    candidates, examples, start, keep, smallest
):
    heats = Racing(start=start, keep=keep, examples=smallest).heats(candidates, examples)
    left, before, spent = candidates, [0] * len(examples), 0
    for heat in heats:
        assert all(
            old <= new <= n for old, new, n in zip(before, heat.sizes, examples, strict=True)
        )
        assert sum(before) < sum(heat.sizes) < sum(examples)
        assert FINALISTS <= heat.kept <= left
        spent += left * (sum(heat.sizes) - sum(before))
        left, before = heat.kept, heat.sizes
    assert spent + left * sum(examples) <= candidates * sum(examples)


@pytest.mark.parametrize("values", [{"start": 0}, {"start": 1}, {"keep": 1}, {"examples": 0}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ValidationError):
        Racing(**values)


def test_racing_on_the_test_split_is_refused(content, read):
    content["merges"]["racing"] = {}
    content["selection"] = "test"
    with pytest.raises(ConfigError, match=r"racing needs selection: validation"):
        read(content)


def test_the_request_of_a_study_without_racing_is_as_before(content, read):
    def request():
        request = merges_request(read(content), "bert", ["rte", "stsb"], 0)
        return json.loads(request.model_dump_json())

    before = request()
    assert "racing" not in before
    content["merges"]["racing"] = {"seed": 3}
    raced = request()
    assert raced.pop("racing") == {"start": 0.125, "keep": 0.5, "examples": 32, "seed": 3}
    assert raced == before
