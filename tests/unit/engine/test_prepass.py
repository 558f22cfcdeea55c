"""Pre-passes: what is asked of whole tensors is answered rightly, once, and in time."""

import numpy as np
import pytest

from mergegrid.engine import prepass_runner
from mergegrid.engine.engine import EngineOptions
from mergegrid.engine.ops.cpu import CpuOperations
from mergegrid.engine.ops.operations import GRAIN
from mergegrid.engine.prepass import CountUntil, Fold, Histogram, PerChunk, Prepass
from mergegrid.engine.prepass_runner import PrepassRunner
from mergegrid.engine.workers import Workers
from mergegrid.methods.average import Average
from mergegrid.methods.fisher import Fisher
from mergegrid.methods.model_stock import ModelStock
from mergegrid.methods.ties import Ties
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.magnitude import Magnitude

SHAPES = {"a": (3, GRAIN), "b": (7,), "c": (5 * GRAIN + 3,)}


@pytest.fixture(scope="module")
def model():
    random = np.random.default_rng(0)
    return {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()
    }


@pytest.fixture(scope="module")
def ask(open_engine, model):
    """PrepassResults to prepasses about a model, in steps."""

    def answers(*steps, threads=3, grains=1, whole_rows=False, told=None):
        engine = open_engine(model, {"math": model})
        found = {}
        with Workers(threads, CpuOperations) as workers:
            runner = PrepassRunner(
                engine.models, found, workers, grains * GRAIN, whole_rows, told or (lambda _: None)
            )
            for step in steps:
                runner.run([("me", prepass) for prepass in step])
        return {(key, name): answer for (_, key, name), answer in found.items()}

    return answers


def numbers(chunk):
    return np.array(chunk.ops.values(chunk.base))


def largest():
    maxima = yield PerChunk(lambda chunk: float(numbers(chunk).max()))
    return max(maxima)


def histogram():
    """How many elements have each sign."""

    def signs(chunk, counts):
        counts += np.bincount(np.sign(numbers(chunk)).astype(int) + 1, minlength=3)

    outcome = yield Histogram(3, signs)
    return (outcome[0] if isinstance(outcome, tuple) else outcome).tolist()


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("grains", [1, 2, 100])
def test_each_run_is_measured_whatever_threads_and_runs(ask, model, threads, grains):
    prepasses = [Prepass("largest", (name,), largest) for name in SHAPES]
    prepasses.append(Prepass("of all", tuple(SHAPES), largest))
    found = ask(prepasses, threads=threads, grains=grains)
    for name in SHAPES:
        assert found["largest", name] == model[name].max()
        assert found["of all", name] == max(each.max() for each in model.values())


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("grains", [1, 100])
def test_a_fold_goes_through_whole_tensors_in_order_and_in_fixed_chunks(
    ask, model, monkeypatch, threads, grains
):
    monkeypatch.setattr(prepass_runner, "FOLD_CHUNK", 2 * GRAIN)

    def parts():
        (state,) = yield Fold(
            list, lambda state, chunk: state.append((chunk.start, numbers(chunk)))
        )
        return state

    prepasses = [Prepass("parts", (name,), parts) for name in SHAPES]
    found = ask(prepasses, threads=threads, grains=grains)
    for name, shape in SHAPES.items():
        starts = [start for start, _ in found["parts", name]]
        whole = np.concatenate([values for _, values in found["parts", name]])
        assert np.array_equal(whole, model[name].ravel())
        # A vector is one row.
        assert starts == ([0, 2 * GRAIN] if len(shape) == 2 else [0])


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_counts_of_all_threads_are_summed(ask, model, threads):
    found = ask([Prepass("signs", tuple(SHAPES), histogram)], threads=threads)
    flat = np.concatenate([each.ravel() for each in model.values()])
    expected = [int((flat < 0).sum()), int((flat == 0).sum()), int((flat > 0).sum())]
    assert found["signs", "a"] == expected


def test_values_of_runs_come_in_order(ask):
    def places():
        return (yield PerChunk(lambda chunk: (chunk.name, chunk.start, chunk.stop)))

    found = ask([Prepass("places", ("a", "c"), places)], threads=7)
    starts = [(name, start) for name in ("a", "c") for start in range(0, 3 * GRAIN, GRAIN)]
    starts += [("c", start * GRAIN) for start in (3, 4, 5)]
    sizes = {"a": 3 * GRAIN, "c": 5 * GRAIN + 3}
    expected = [(name, at, min(at + GRAIN, sizes[name])) for name, at in starts]
    assert found["places", "a"] == expected


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [1, 4 * GRAIN, 1 << 40])
def test_samples_come_in_order_however_many_tasks_they_are(ask, monkeypatch, threads, size):
    monkeypatch.setattr("mergegrid.engine.prepass_runner.SAMPLE_CHUNK", 2 * GRAIN)
    monkeypatch.setattr("mergegrid.engine.prepass_runner._SAMPLED_TASK", size)

    def places():
        return (
            yield PerChunk(lambda chunk: (chunk.name, chunk.start, chunk.count), sample=GRAIN // 2)
        )

    found = ask([Prepass("places", tuple(SHAPES), places)], threads=threads)["places", "a"]
    quarters = [("a", 0, GRAIN // 2), ("a", 2 * GRAIN, GRAIN // 4), ("b", 0, 2)]
    quarters += [("c", start * GRAIN, GRAIN // 2) for start in (0, 2)]
    assert found == [*quarters, ("c", 4 * GRAIN, GRAIN // 4 + 1)]


def test_one_run_alone_can_be_measured(ask, model):
    def at():
        return (yield PerChunk(lambda chunk: float(numbers(chunk)[2]), at=("c", 5 * GRAIN)))

    assert ask([Prepass("at", tuple(SHAPES), at)])["at", "b"] == [float(model["c"][-1])]


@pytest.mark.parametrize("enough", [0, 1, GRAIN, GRAIN + 1, 1 << 40])
@pytest.mark.parametrize("threads", [1, 7])
def test_counting_stops_at_the_run_that_makes_it_enough(ask, enough, threads):
    def counted():
        return (yield CountUntil(lambda chunk: chunk.count, enough))

    found = ask([Prepass("count", tuple(SHAPES), counted)], threads=threads)["count", "a"]
    runs = [("a", n * GRAIN, GRAIN) for n in range(3)] + [("b", 0, 7)]
    runs += [("c", n * GRAIN, GRAIN) for n in range(5)] + [("c", 5 * GRAIN, 3)]
    needed = {0: 0, 1: 1, GRAIN: 1, GRAIN + 1: 2, 1 << 40: len(runs)}[enough]
    assert found == runs[:needed]


def test_later_rounds_see_the_outcome_of_earlier_ones(ask, model):
    def above_the_mean():
        sums = yield PerChunk(lambda chunk: float(numbers(chunk).astype(np.float64).sum()))
        mean = sum(sums) / model["c"].size
        return sum((yield PerChunk(lambda chunk: int((numbers(chunk) > mean).sum()))))

    found = ask([Prepass("above", ("c",), above_the_mean)])
    exact = model["c"].astype(np.float64)
    assert found["above", "c"] == (exact > exact.mean()).sum()


def test_surveys_of_different_length_are_answered_together(ask):
    def rounds(count):
        for _ in range(count):
            yield PerChunk(lambda chunk: chunk.count)
        return count

    prepasses = [Prepass(count, ("c",), lambda count=count: rounds(count)) for count in range(4)]
    assert [ask(prepasses)[count, "c"] for count in range(4)] == [0, 1, 2, 3]


def test_equal_keys_are_asked_once(ask):
    asked = []

    def rounds():
        asked.append(1)
        return len((yield PerChunk(lambda chunk: chunk.count)))

    twice = [Prepass("runs", ("c",), rounds), Prepass("runs", ("c",), rounds)]
    assert ask(twice, twice)["runs", "c"] == 6
    assert len(asked) == 1


def test_one_key_about_two_groups_has_two_answers(ask):
    prepasses = [Prepass("largest", ("a", "b"), largest), Prepass("largest", ("c",), largest)]
    found = ask(prepasses)
    assert found["largest", "a"] == found["largest", "b"] != found["largest", "c"]


def test_rowwise_runs_hold_whole_rows(ask):
    def shapes():
        return (yield PerChunk(lambda chunk: (chunk.start, chunk.count % chunk.row)))

    found = ask([Prepass("rows", ("a",), shapes)], whole_rows=True)
    assert found["rows", "a"] == [(0, 0), (GRAIN, 0), (2 * GRAIN, 0)]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_measurement_is_raised(ask, threads):
    def failing():
        yield PerChunk(lambda chunk: 1 // 0 if chunk.start else 0)

    with pytest.raises(ZeroDivisionError):
        ask([Prepass("failing", ("c",), failing)], threads=threads)


@pytest.fixture
def experts(model):
    return {
        name: {key: each + np.float32(shift) for key, each in model.items()}
        for name, shift in (("code", 1), ("math", 3))
    }


@pytest.mark.parametrize("groups", [[("a",), ("b",), ("c",)], [("a", "b", "c")]])
def test_surveys_after_others_see_their_answers(merge, method_of, model, experts, groups):
    def prepasses(inputs):
        def second(names):
            def halved(chunk):
                return inputs.merge_chunk(chunk).result("first") / 2

            (half, *_) = yield PerChunk(halved)
            return half

        # Listed first all the same.
        for names in groups:
            yield Prepass("second", names, lambda names=names: second(names), after=True)
            yield Prepass("first", names, largest)

    def method(chunk):
        return chunk.ops.scaled(chunk.weights[0], chunk.result("second"))

    options = EngineOptions(threads=3, chunk_size=GRAIN)
    merged = merge(model, experts, method_of(method, prepasses), options=options)
    for names in groups:
        half = max(model[name].max() for name in names) / 2
        for name in names:
            assert np.array_equal(merged[name], experts["code"][name] * np.float32(half))


def test_surveys_of_a_method_see_what_the_sparsifier_leaves(
    merge, sparsify, method_of, model, experts
):
    def prepasses(inputs):
        def leftover():
            def count(chunk):
                delta = inputs.merge_chunk(chunk).experts["math"].delta
                return int((np.array(chunk.ops.values(delta)) != 0).sum())

            return sum((yield PerChunk(count)))

        for name in inputs.names:
            yield Prepass("left", (name,), leftover)

    def method(chunk):
        return chunk.ops.plus_number(chunk.ops.scaled(chunk.base, 0.0), chunk.result("left"))

    spec = Magnitude(rate=0.7)
    left, _ = sparsify(spec, model, experts["math"])
    merged = merge(model, experts, method_of(method, prepasses), sparsifier=spec)
    for name in SHAPES:
        assert (merged[name] == (left[name] != 0).sum()).all()


@pytest.mark.parametrize("chunk_size", [GRAIN, 4 * GRAIN])
def test_answers_about_single_tensors_are_forgotten_and_others_kept(
    open_engine, stream, recipe_of, model, experts, chunk_size
):
    engine = open_engine(model, experts, options=EngineOptions(threads=2, chunk_size=chunk_size))
    recipes = [
        recipe_of(Ties(trim=0.5), experts),
        recipe_of(Ties(trim=0.5, scope="per_tensor"), experts),
        recipe_of(ModelStock(), experts),
        recipe_of(Average(), experts, Magnitude(rate=0.5)),
        recipe_of(Average(), experts, Magnitude(rate=0.5, scope="global")),
    ]
    first = stream(engine, recipes)
    kept = {key[:2] for key in engine.results}
    assert len(kept) == 4  # A trim and a cut of the whole model for each of the two experts.
    assert {name for _, _, name in engine.results} == set(SHAPES)
    answers = dict(engine.results)
    again = stream(engine, recipes)
    assert engine.results.keys() == answers.keys()
    assert all(engine.results[key] is answers[key] for key in answers)
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in SHAPES)


def test_recipes_that_differ_only_in_the_method_share_what_they_ask_of_the_sparsifier(
    open_engine, stream, recipe_of, model, experts
):
    spec = Magnitude(rate=0.5, scope="global")
    engine = open_engine(model, experts)
    stream(engine, [recipe_of(Average(), experts, spec)])
    answers = dict(engine.results)
    stream(engine, [recipe_of(ModelStock(), experts, spec)])
    assert engine.results == answers


def test_an_engine_gives_every_recipe_its_own_answers(
    open_engine, stream, recipe_of, merge, model, experts
):
    statistics = {name: {key: each**2 for key, each in experts[name].items()} for name in experts}
    asked = [
        (Ties(trim=0.5), None),
        (Ties(trim=0.9), None),
        (Ties(trim=0.9, arithmetic="reference"), None),
        (Ties(trim=0.9), Dare(rate=0.5)),
        (Ties(trim=0.9), Dare(rate=0.5, seed=1)),
        (Fisher(normalize=True), None),
        (Fisher(normalize=True, floor=0.1), None),
        (Average(), Magnitude(rate=0.5, scope="global")),
        (Average(), Magnitude(rate=0.6, scope="global")),
        (Average(), Magnitude(rate=0.5, rates={"math": 0.6}, scope="global")),
    ]
    engine = open_engine(model, experts, statistics)
    for method, sparsifier in asked:
        (merged,) = stream(engine, [recipe_of(method, experts, sparsifier)])
        alone = merge(model, experts, method, sparsifier, statistics=statistics)
        assert all(np.array_equal(merged[name], alone[name]) for name in SHAPES)


def test_progress_adds_up_to_what_is_read(ask, model):
    told = []
    ask([Prepass("largest", tuple(SHAPES), largest)], told=told.append)
    assert sum(told) == sum(each.nbytes for each in model.values())
