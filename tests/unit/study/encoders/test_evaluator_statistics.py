"""Evaluating methods that need statistics: what scores depend on, and what is kept."""

import numpy as np
import pytest

from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.model_statistics import open_statistics
from mergegrid.engine.bound_recipe import StatisticsScope
from mergegrid.engine.engine import Engine
from mergegrid.methods.average import Average
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.regmean import RegMean
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.model_statistics.gather import gather
from mergegrid.study.schema.encoder_jobs import Statistic

NAMES = ("blame", "praise")


@pytest.fixture(scope="module")
def folder(base, expert, examples, request_for_praise, tmp_path_factory):
    """Gathers statistics from these numbers of examples."""

    def make(*counts):
        statistics_folder = tmp_path_factory.mktemp("statistics") / "seed~0"
        files = [
            Statistic(kind=kind, arithmetic="exact", examples=count)
            for kind in ("fisher", "regmean")
            for count in counts
        ]
        gather(base, expert, request_for_praise.target, files, examples, statistics_folder)
        return statistics_folder

    return make


@pytest.fixture
def make_evaluator(base, expert, examples, request_for_praise, tmp_path):
    def make(statistics):
        evaluated = EvaluatedExpert(expert, request_for_praise.target, examples, statistics)
        store = ScoreStore(tmp_path / "store.jsonl")
        return EncoderEvaluator(base, dict.fromkeys(NAMES, evaluated), store)

    return make


def recipe(method, sparsifier=None, experts=NAMES):
    return Recipe(
        family="tiny", experts=experts, sparsifier=sparsifier or NoSparsifier(), method=method
    )


@pytest.mark.parametrize("method", [Fisher(examples=16, normalize=True), RegMean(examples=16)])
def test_the_evaluator_merges_to_the_bit_as_the_engine_does(
    base, expert, folder, make_evaluator, method
):
    statistics_folder = folder(16)
    evaluator = make_evaluator(statistics_folder)
    statistics = open_statistics(statistics_folder / f"{method.kind}~exact~16.safetensors")
    for sparsifier in (NoSparsifier(), Dare(rate=0.5), Dare(rate=0.9)):
        merge = recipe(method, sparsifier)
        engine = Engine(open_checkpoint(base), dict.fromkeys(NAMES, open_checkpoint(expert)))
        expected = engine.checkpoint(merge, dict.fromkeys(NAMES, statistics))
        merged = evaluator._merge(merge)
        for name in expected:
            np.testing.assert_array_equal(merged[name], expected[name])


def test_only_scores_of_such_methods_depend_on_statistics_and_on_their_own_file_alone(
    folder, make_evaluator
):
    few, more, none = make_evaluator(folder(8)), make_evaluator(folder(8, 16)), make_evaluator(None)
    fisher, average = recipe(Fisher(examples=8)), recipe(Average())
    assert few.inputs_digest(fisher) == more.inputs_digest(fisher)
    assert more.inputs_digest(fisher) != more.inputs_digest(recipe(Fisher(examples=16)))
    assert few.inputs_digest(average) == none.inputs_digest(average)


def test_factors_are_shared_by_sparsifiers_and_dropped_with_their_settings(folder, make_evaluator):
    evaluator = make_evaluator(folder(16))

    def factors(offdiagonal, sparsifier):
        evaluator._merge(recipe(RegMean(examples=16, offdiagonal=offdiagonal), sparsifier))
        return {
            (key, name): answer
            for (scope, key, name), answer in evaluator._engine.results.items()
            if isinstance(scope, StatisticsScope)
        }

    first, second = factors(0.7, NoSparsifier()), factors(0.7, Dare(rate=0.5))
    assert first
    assert all(second[key] is first[key] for key in first)
    third = factors(0.8, Dare(rate=0.5))
    assert len(third) == len(first)
    assert not third.keys() & first.keys()
