"""Recipes with ranges: where ranges may stand, and what is refused before work starts."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from mergegrid.errors import ConfigError, MissingLibraryError
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.methods.ties import Ties
from mergegrid.sparsifiers.dare import Dare
from mergegrid.study.schema.encoder_jobs import merges_request
from mergegrid.study.schema.sampling import Range, Sampled

TIES = {"kind": "ties", "coefficient": {"low": 0.5, "high": 1.5}, "trim": {"low": 0.5, "high": 0.9}}
DARE = {"kind": "dare", "rate": {"low": 0.1, "high": 0.9}}


def test_numbers_take_the_place_of_their_ranges():
    sampled = Sampled(method=TIES, sparsifier=DARE)
    assert list(sampled.space()) == ["method.coefficient", "method.trim", "sparsifier.rate"]
    numbers = {"method.coefficient": 0.7, "method.trim": 0.8, "sparsifier.rate": 0.5}
    method, sparsifiers = sampled.point(numbers, [3, 4])
    assert method == Ties(coefficient=0.7, trim=0.8)
    assert sparsifiers == [Dare(rate=0.5, seed=3), Dare(rate=0.5, seed=4)]


def test_a_seed_that_is_written_is_the_only_one():
    sampled = Sampled(method=TIES, sparsifier={**DARE, "seed": 7})
    _, sparsifiers = sampled.point(sampled.ends()[0], [0, 1, 2])
    assert [sparsifier.seed for sparsifier in sparsifiers] == [7]


def test_ranges_may_stand_in_values_by_layer_and_module():
    rules = [{"tensors": "norms", "value": {"low": 0.1, "high": 0.2}}]
    coefficient = {"rules": rules, "default": {"gradient": [{"low": 0, "high": 1}, 0.5]}}
    sampled = Sampled(method={"kind": "task_arithmetic", "coefficient": coefficient})
    assert list(sampled.space()) == [
        "method.coefficient.rules.0.value",
        "method.coefficient.default.gradient.0",
    ]
    method, _ = sampled.point(sampled.ends()[1], [0])
    assert method == TaskArithmetic(
        coefficient={
            "rules": [{"tensors": "norms", "value": 0.2}],
            "default": {"gradient": [1, 0.5]},
        }
    )


@pytest.mark.parametrize(
    ("low", "high", "log", "place", "number"),
    [
        (0.0, 1.0, False, 0.123456, 0.1235),
        (0.01, 1.0, True, 0.5, 0.1),
        (0.2, 0.3, False, 0.0, 0.2),
        (0.12344, 0.2, False, 0.0, 0.12344),
    ],
)
def test_numbers_have_four_digits_and_stay_within_their_range(low, high, log, place, number):
    assert Range(low=low, high=high, log=log).at(place) == number


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"kind": "ties", "trim": {"low": 0.9, "high": 0.5}}, "trim: low = 0.9 is not below"),
        ({"kind": "ties", "trim": {"low": 0.5}}, "trim: Field required"),
        ({"kind": "ties", "trim": {"low": 0, "high": 0.5, "log": True}}, "has no logarithm"),
        ({"kind": "ties", "trim": {"low": 0.5, "high": 2}}, "trim"),
        ({"kind": "ties", "size": {"low": 0.5, "high": 2}}, "size"),
        ({"kind": "ties", "trim": 0.8}, "no ranges"),
        ({"kind": "regmean", "offdiagonal": {"low": 0.5, "high": 1}}, "needs model statistics"),
    ],
)
def test_what_cannot_be_drawn_is_refused(method, message):
    with pytest.raises(ValidationError, match=message):
        Sampled(method=method)


def test_without_its_package_tpe_says_how_to_install_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "mergegrid.extras.find_spec", lambda name: None if name == "optuna" else find(name)
    )
    with pytest.raises(MissingLibraryError, match=r"mergegrid\[search\]"):
        Sampled(sampler="tpe", method=TIES)


def test_the_same_kinds_are_not_searched_twice(content, read):
    content["merges"]["sampled"] = [{"method": TIES, "sparsifier": DARE}]
    with pytest.raises(ConfigError, match="ties with dare, which is searched twice"):
        read(content)
    content["merges"]["methods"] = []
    study = read(content)
    request = merges_request(study, "bert", ["rte", "stsb"], 0)
    assert request.sampled == [Sampled(method=TIES, sparsifier=DARE)]
    assert request.mask_seeds == [0, 1, 2]
    assert type(request).model_validate_json(request.model_dump_json()) == request


def test_the_example_of_the_docs_is_valid(content, read):
    docs = (Path(__file__).parents[4] / "docs" / "studies.md").read_text()
    (example,) = re.findall(r"```yaml\n(encoders:\n  merges:\n    methods.*?)```", docs, re.DOTALL)
    content["merges"] = yaml.safe_load(example)["encoders"]["merges"]
    (sampled,) = read(content).merges.sampled
    assert len(sampled.space()) == 3


def test_samples_alone_are_a_study(content, read):
    content |= {"sweep": None}
    content["merges"] |= {"methods": [], "sampled": [{"method": TIES}]}
    assert read(content).merge_methods() == []
    content["merges"]["sampled"] = []
    with pytest.raises(ConfigError, match="neither a sweep nor a merge"):
        read(content)
