"""Samplers: deterministic, resumable, and better than chance where they learn."""

import numpy as np
import pandas as pd
import pytest
from small_encoders import WORDS

from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
from mergegrid.study.encoders.merges import merges
from mergegrid.study.encoders.parts import OutcomeStore
from mergegrid.study.encoders.samplers import best_point, sampler_of
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.encoders.task_scorer import TaskScorer
from mergegrid.study.schema.encoder_jobs import MergesRequest
from mergegrid.study.schema.sampling import Sampled

METHOD = {
    "kind": "ties",
    "coefficient": {"low": 0.1, "high": 10, "log": True},
    "trim": {"low": 0.1, "high": 0.9},
}


@pytest.fixture(params=["random", "sobol", "tpe"])
def sampled(request):
    if request.param == "tpe":
        pytest.importorskip("optuna", reason="TPE is in mergegrid[search]")
    return Sampled(sampler=request.param, method=METHOD, budget=40, batch=8)


def value(point):
    """Largest where the coefficient is 1 and the trim 0.7."""
    return -(np.log10(point["method.coefficient"]) ** 2) - (point["method.trim"] - 0.7) ** 2


def drawn(sampled, evaluate=value):
    points = []

    def recorded(point):
        points.append(point)
        return evaluate(point)

    return best_point(sampled, recorded, "test"), points


def test_a_sampler_is_a_function_of_its_seed_and_of_the_scores(sampled):
    best, points = drawn(sampled)
    assert len(points) == 40
    assert drawn(sampled) == (best, points)
    assert value(best) == max(map(value, points))
    assert drawn(sampled.model_copy(update={"seed": 1}))[1] != points
    # The same points in other batches, unless scores count.
    others = drawn(sampled.model_copy(update={"batch": 5}))[1]
    assert (others == points) == (sampled.sampler != "tpe")


def test_points_are_within_their_ranges_and_cover_them(sampled):
    _, points = drawn(sampled)
    for name, part in sampled.space().items():
        numbers = [point[name] for point in points]
        assert all(part.low <= number <= part.high for number in numbers)
        assert min(numbers) < part.at(0.3)
        assert max(numbers) > part.at(0.7)


def test_sobol_fills_every_eighth_of_a_range():
    points = sampler_of(Sampled(sampler="sobol", method=METHOD)).ask(8)
    eighths = {int((point["method.trim"] - 0.1) / 0.1000001) for point in points}
    assert eighths == set(range(8))


def test_tpe_comes_closer_than_random_points_do():
    pytest.importorskip("optuna", reason="TPE is in mergegrid[search]")

    def late_values(kind, seed):
        sampled = Sampled(sampler=kind, method=METHOD, budget=48, batch=8, seed=seed)
        return np.mean([value(point) for point in drawn(sampled)[1][24:]])

    wins = [late_values("tpe", seed) > late_values("random", seed) for seed in range(8)]
    assert sum(wins) >= 7


def test_a_batch_is_drawn_before_any_of_its_scores_are_known(sampled):
    sampler = sampler_of(sampled)
    first = sampler.ask(8)
    sampler.tell([0.0] * 8)
    assert len({str(point) for point in first + sampler.ask(8)}) == 16


@pytest.fixture
def make_evaluator(base, expert, request_for_praise, tmp_path):
    rows = [
        ("test" if index % 3 else "validation", f"the {WORDS[index % 8]} film", None, index % 2)
        for index in range(48)
    ]
    examples = pd.DataFrame(rows, columns=["split", "text_a", "text_b", "label"])
    target = request_for_praise.target

    def make(place):
        experts = {name: EvaluatedExpert(expert, target, examples) for name in ("praise", "blame")}
        store = ScoreStore(tmp_path / place / "s.jsonl")
        outcomes = OutcomeStore(tmp_path / place / "o.jsonl")
        return EncoderEvaluator(base, experts, store, outcomes=outcomes)

    return make


@pytest.mark.parametrize("aim", ["mean", "each"])
def test_a_search_that_was_killed_twice_has_the_same_history(
    sampled, aim, make_evaluator, request_for_praise, monkeypatch
):
    rate = {"kind": "dare", "rate": {"low": 0.1, "high": 0.9}}
    sampled = Sampled(**{**sampled.model_dump(), "sparsifier": rate, "budget": 12, "batch": 4})
    request = MergesRequest(
        family="tiny",
        experts=["praise", "blame"],
        training_seed=0,
        targets=[request_for_praise.target] * 2,
        methods=[],
        sparsifiers=[[NoSparsifier()]],
        selection="validation",
        aim=aim,
        sampled=[sampled],
        mask_seeds=[0, 1],
    )
    calls, limits, predict = [], [None], TaskScorer.predict

    class KilledError(Exception):
        pass

    def killed(self, *given):
        if len(calls) == limits[-1]:
            raise KilledError
        calls.append(given[1])
        return predict(self, *given)

    monkeypatch.setattr(TaskScorer, "predict", killed)
    undisturbed = merges(request, make_evaluator("undisturbed"))
    count = len(calls)
    for limit in (5, 9):
        limits.append(limit)
        calls.clear()
        with pytest.raises(KilledError):
            merges(request, make_evaluator("killed"))
    limits.append(None)
    calls.clear()
    resumed = merges(request, make_evaluator("killed"))
    assert len(calls) == count - 5 - 9
    for one, other in zip(resumed, undisturbed, strict=True):
        pd.testing.assert_frame_equal(one, other)
    scores, _ = resumed
    compared = scores[scores["split"] == "validation"]
    assert compared.groupby(["head"])["rate"].nunique().tolist() == [12, 12]
    # Of each selection one candidate, with its two mask seeds.
    selected = scores[(scores["split"] == "test")]
    assert selected.groupby("head").size().tolist() == [2, 2]
