"""Methods that need statistics on a bench: what scores depend on, and what is kept."""

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
from mergegrid.study.encoders.evaluator import Bench, Member
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.model_statistics.gather import gather
from mergegrid.study.schema.encoder_jobs import Statistic, StatisticsRequest

NAMES = ("blame", "praise")


@pytest.fixture(scope="module")
def folder(base, expert, examples, request_for_praise, tmp_path_factory):
    """Makes a folder of statistics from so many examples."""

    def make(*counts):
        place = tmp_path_factory.mktemp("statistics") / "seed~0"
        wanted = [
            Statistic(kind=kind, arithmetic="exact", examples=count)
            for kind in ("fisher", "regmean")
            for count in counts
        ]
        request = StatisticsRequest(target=request_for_praise.target, statistics=wanted)
        gather(base, expert, request, examples, place)
        return place

    return make


@pytest.fixture
def bench(base, expert, examples, request_for_praise, tmp_path):
    def make(statistics):
        member = Member(expert, request_for_praise.target, examples, statistics)
        store = ScoreStore(tmp_path / "store.jsonl")
        return Bench(base, dict.fromkeys(NAMES, member), store)

    return make


def recipe(method, sparsifier=None, experts=NAMES):
    return Recipe(
        family="tiny", experts=experts, sparsifier=sparsifier or NoSparsifier(), method=method
    )


@pytest.mark.parametrize("method", [Fisher(examples=16, normalize=True), RegMean(examples=16)])
def test_the_bench_merges_to_the_bit_as_the_engine_does(base, expert, folder, bench, method):
    place = folder(16)
    made = bench(place)
    statistics = open_statistics(place / f"{method.kind}~exact~16.safetensors")
    for sparsifier in (NoSparsifier(), Dare(rate=0.5), Dare(rate=0.9)):
        asked = recipe(method, sparsifier)
        engine = Engine(open_checkpoint(base), dict.fromkeys(NAMES, open_checkpoint(expert)))
        expected = engine.checkpoint(asked, dict.fromkeys(NAMES, statistics))
        got = made._merge(asked)
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])


def test_only_scores_of_such_methods_depend_on_statistics_and_on_their_own_file_alone(
    folder, bench
):
    few, more, none = bench(folder(8)), bench(folder(8, 16)), bench(None)
    fisher, average = recipe(Fisher(examples=8)), recipe(Average())
    assert few.inputs_digest(fisher) == more.inputs_digest(fisher)
    assert more.inputs_digest(fisher) != more.inputs_digest(recipe(Fisher(examples=16)))
    assert few.inputs_digest(average) == none.inputs_digest(average)


def test_factors_are_shared_by_sparsifiers_and_forgotten_with_their_setting(folder, bench):
    made = bench(folder(16))

    def factors(offdiagonal, sparsifier):
        made._merge(recipe(RegMean(examples=16, offdiagonal=offdiagonal), sparsifier))
        return {
            (key, name): answer
            for (asker, key, name), answer in made._engine.results.items()
            if isinstance(asker, StatisticsScope)
        }

    first, second = factors(0.7, NoSparsifier()), factors(0.7, Dare(rate=0.5))
    assert first
    assert all(second[key] is first[key] for key in first)
    third = factors(0.8, Dare(rate=0.5))
    assert len(third) == len(first)
    assert not third.keys() & first.keys()
