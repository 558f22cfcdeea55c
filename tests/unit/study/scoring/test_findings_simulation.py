"""Simulated studies: how often findings are wrong, and how often they are there."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

PATH = Path(__file__).parents[4] / "benchmarks" / "findings_simulation.py"
TABLES = 100

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("findings_simulation", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("name", ["no differences", "seeds differ, 3 and 3", "experts differ"])
def test_findings_are_wrong_in_few_studies_and_intervals_contain_the_truth(simulation, name):
    shares = simulation.simulate(simulation.SCENARIOS[name], TABLES)
    # Of 100 studies, 5 may be wrong; 11 is more than chance allows in 1 of 100 runs.
    assert (shares["wrong"] <= 0.11).all(), shares
    assert (shares["covered"] >= 0.89).all(), shares
    assert (shares["alone"] >= 0.92).all(), shares
    assert (shares["others"] >= 0.89).all(), shares


@pytest.mark.parametrize(
    "name", ["20 recipes, no differences", "20 recipes, seeds differ", "20 recipes, effects"]
)
def test_rankings_seldom_tell_equal_recipes_apart(simulation, name):
    (shares,) = simulation.simulate(simulation.SCENARIOS[name], 40).itertuples()
    assert shares.wrong <= 0.1, shares
    assert shares.covered >= 0.9, shares
    # All but the best are at least a point behind, and as many as 19 points.
    assert (shares.found > 0.3) == (name == "20 recipes, effects"), shares


def test_differences_of_several_points_are_found(simulation):
    scenario = replace(simulation.SCENARIOS["5 points"], questions=600)
    shares = simulation.simulate(scenario, 30)
    assert (shares["found"] >= 0.6).all(), shares
    assert (shares["wrong"] <= 0.2).all(), shares


def test_questions_of_several_seeds_are_not_independent(simulation):
    shares = simulation.simulate(simulation.SCENARIOS["seeds differ, 2 and 2"], TABLES)
    assert shares.loc["sparsifier", "pooled"] > 0.3, shares
