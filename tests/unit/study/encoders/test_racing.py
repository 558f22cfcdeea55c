"""Races among merges: what is evaluated, what is selected, and that a race survives a kill."""

import numpy as np
import pandas as pd
import pytest
from small_encoders import WORDS

from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.encoders import evaluator as evaluator_module
from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
from mergegrid.study.encoders.merges import Search, merges
from mergegrid.study.encoders.parts import Outcomes, OutcomeStore, Part, joined, order_of
from mergegrid.study.encoders.racing import race
from mergegrid.study.encoders.replay import replay
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.encoders.task_scorer import TaskScorer
from mergegrid.study.reporting import tables
from mergegrid.study.reporting.selection import selection
from mergegrid.study.schema.encoder_jobs import MergesRequest
from mergegrid.study.schema.racing import Racing

RACING = Racing(start=0.125, keep=0.5, examples=1)


def raced(values, racing, examples=800, selections=(("a",),)):
    """The choice of a race where candidate i is worth `values[i]`, and what was evaluated."""
    evaluated = []

    def evaluate(one, parts):
        evaluated.append((one, {head: part.size if part else None for head, part in parts.items()}))
        return [{head: values[head][one] for head in parts}]

    heads = [head for part in selections for head in part]
    sizes = dict.fromkeys(heads, examples)
    count = len(values[heads[0]])
    return race(count, selections, racing, sizes, evaluate, "test"), evaluated


def test_the_worse_half_drops_out_and_the_best_of_the_rest_is_chosen_on_the_whole_split():
    values = {"a": [0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.4, 0.6]}
    best, evaluated = raced(values, RACING)
    assert best == {("a",): 1}
    sizes = [size["a"] for _, size in evaluated]
    assert sizes == [100] * 8 + [200] * 4 + [None] * 2
    assert [one for one, _ in evaluated[8:]] == [1, 3, 5, 7, 1, 3]


def test_of_equal_candidates_the_first_stays_and_wins():
    best, evaluated = raced({"a": [0.5] * 8}, RACING)
    assert best == {("a",): 0}
    assert [one for one, _ in evaluated[8:]] == [0, 1, 2, 3, 0, 1]


def test_without_racing_all_are_compared_on_the_whole_split():
    best, evaluated = raced({"a": [0.1, 0.9, 0.9]}, None)
    assert best == {("a",): 1}
    assert evaluated == [(one, {"a": None}) for one in range(3)]


def test_each_task_has_a_race_of_its_own_and_a_candidate_is_evaluated_for_both_at_once():
    values = {"a": [0.9, 0.8, 0.7, 0.1, 0.1, 0.1], "b": [0.9, 0.1, 0.1, 0.7, 0.8, 0.1]}
    best, evaluated = raced(values, RACING, selections=[("a",), ("b",)])
    assert best == {("a",): 0, ("b",): 0}
    assert evaluated[0] == (0, {"a": 100, "b": 100})
    assert [(one, sorted(size)) for one, size in evaluated[6:11]] == [
        (0, ["a", "b"]),
        (1, ["a"]),
        (2, ["a"]),
        (3, ["b"]),
        (4, ["b"]),
    ]


def test_the_mean_over_tasks_decides_where_one_setting_is_selected_for_all():
    values = {"a": [0.9, 0.6, 0.1, 0.1], "b": [0.1, 0.6, 0.1, 0.1]}
    best, _ = raced(values, RACING, selections=[("a", "b")])
    assert best == {("a", "b"): 1}


def test_pieces_of_parts_are_nested_and_skip_what_does_not_grow():
    part = Part(0, (32, 32, 64))
    assert list(part.pieces()) == [(0, 32), (32, 64)]
    assert (part.size, part.added) == (64, 32)
    assert Part(0, (32,)).added == 32


def texts(*values):
    return pd.DataFrame({"text_a": values, "text_b": None})


def test_the_order_of_examples_depends_on_their_texts_and_the_seed_alone():
    names = [f"text {number}" for number in range(50)]
    whole = texts(*names)
    order = whole["text_a"].iloc[order_of(whole, 0)].tolist()
    assert sorted(order) == sorted(names)
    assert order != names
    shuffled = whole.iloc[::-1].iloc[::3]
    assert shuffled["text_a"].iloc[order_of(shuffled, 0)].tolist() == [
        name for name in order if name in set(shuffled["text_a"])
    ]
    assert whole["text_a"].iloc[order_of(whole, 1)].tolist() != order
    # Equal texts are told apart.
    assert sorted(order_of(texts("a", "a", "b"), 0)) == [0, 1, 2]


@pytest.mark.parametrize(
    "predictions",
    [
        np.array([0, 3, 255]),
        np.array([0, 256]),
        np.array([0.1, -3.5], np.float32),
        np.array([], dtype=np.int64),
    ],
)
def test_outcomes_come_back_as_they_were(predictions, tmp_path):
    OutcomeStore(tmp_path / "o.jsonl").add({"a": 1}, Outcomes(predictions, {"torch": ("2.13",)}))
    store = OutcomeStore(tmp_path / "o.jsonl")
    known = store.get({"a": 1})
    assert known.predictions.dtype == predictions.dtype
    assert known.predictions.tolist() == predictions.tolist()
    assert known.libraries == {"torch": ("2.13",)}
    assert store.get({"a": 2}) is None
    both = joined([known, known])
    assert both.predictions.tolist() == predictions.tolist() * 2


@pytest.fixture(scope="module")
def many():
    """96 examples to select on and 24 to test, with words that the expert half knows."""
    rows = []
    for index in range(120):
        words = [WORDS[(index * step) % 8] for step in (1, 3, 5)]
        label = int(sum(word in WORDS[:4] for word in words) >= 2)
        split = "validation" if index < 96 else "test"
        rows.append((split, f"the {' '.join(words)} film {index}", None, label))
    return pd.DataFrame(rows, columns=["split", "text_a", "text_b", "label"])


COEFFICIENTS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0)


@pytest.fixture
def request_of(request_for_praise):
    target = request_for_praise.target

    def make(**changes):
        values = {
            "family": "tiny",
            "experts": ["praise", "blame"],
            "training_seed": 0,
            "targets": [target, target.model_copy(update={"task": "blame"})],
            "methods": [[TaskArithmetic(coefficient=c) for c in COEFFICIENTS]],
            "sparsifiers": [
                [NoSparsifier()],
                [Dare(rate=r, seed=s) for r in (0.1, 0.3, 0.5, 0.7, 0.9) for s in (0, 1)],
            ],
            "selection": "validation",
            "racing": Racing(examples=8),
        }
        return MergesRequest(**(values | changes))

    return make


@pytest.fixture
def make_evaluator(base, expert, many, request_for_praise, tmp_path):
    """Makes a new evaluator on the same stores, as every job does; each `place` has its own."""

    def make(place="job", examples=many):
        target = request_for_praise.target
        experts = {name: EvaluatedExpert(expert, target, examples) for name in ("praise", "blame")}
        stores = (
            ScoreStore(tmp_path / place / "s.jsonl"),
            OutcomeStore(tmp_path / place / "o.jsonl"),
        )
        return EncoderEvaluator(base, experts, stores[0], outcomes=stores[1])

    return make


@pytest.fixture
def predicted(monkeypatch):
    """Splits and numbers of examples that are predicted rather than read from a store."""
    calls, predict = [], TaskScorer.predict

    def counted(self, checkpoint, split, rows=None):
        calls.append((split, len(rows) if rows is not None else None))
        return predict(self, checkpoint, split, rows)

    monkeypatch.setattr(TaskScorer, "predict", counted)
    return calls


@pytest.mark.parametrize("aim", ["mean", "each"])
def test_scores_on_the_whole_split_are_those_of_the_full_grid_to_the_bit(
    make_evaluator, request_of, aim
):
    full, _ = merges(request_of(racing=None, aim=aim), make_evaluator("full"))
    raced, predictions = merges(request_of(aim=aim), make_evaluator("raced"))
    keys = ["recipe_digest", "head", "split"]
    both = raced.merge(full, on=keys, suffixes=("", "_full"))
    whole = both[(both["share"] == 1) | (both["split"] == "test")]
    assert len(whole) > 8
    assert (whole["value"] == whole["value_full"]).all()
    assert (whole["stderr"] == whole["stderr_full"]).all()
    dropped = raced[raced["share"] < 1]
    assert set(dropped["n"]) == {12, 24}
    assert (dropped["n"] == dropped["share"] * 96).all()
    assert not dropped["selected"].any()
    # The largest part, and all of the split again.
    assert set(raced.loc[raced["share"] == 1, "evaluations"]) <= {12 + 96, 24 + 96}
    assert "share" not in full
    compared = raced[raced["split"] == "validation"]
    assert compared["evaluations"].sum() < 0.6 * 96 * len(compared)
    assert set(predictions["recipe_digest"]) == set(
        raced.loc[raced["split"] == "test", "recipe_digest"]
    )


def test_a_race_that_was_killed_ends_as_if_it_had_not_been(
    make_evaluator, request_of, predicted, monkeypatch
):
    undisturbed = merges(request_of(), make_evaluator("undisturbed"))
    count = len(predicted)
    counted = TaskScorer.predict

    class KilledError(Exception):
        pass

    for stop in (3, 11):
        predicted.clear()

        def killed(self, *given, stop=stop):
            if len(predicted) == stop:
                raise KilledError
            return counted(self, *given)

        monkeypatch.setattr(TaskScorer, "predict", killed)
        with pytest.raises(KilledError):
            merges(request_of(), make_evaluator("killed"))
    monkeypatch.setattr(TaskScorer, "predict", counted)
    predicted.clear()
    resumed = merges(request_of(), make_evaluator("killed"))
    for one, other in zip(resumed, undisturbed, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert len(predicted) == count - 3 - 11
    predicted.clear()
    merges(request_of(), make_evaluator("killed"))
    assert predicted == []


def test_no_model_is_merged_twice_while_memory_lasts(make_evaluator, request_of, monkeypatch):
    merged, merge = [], EncoderEvaluator._merge

    def recorded(self, recipe):
        merged.append(recipe)
        return merge(self, recipe)

    monkeypatch.setattr(EncoderEvaluator, "_merge", recorded)
    Search(request_of(), make_evaluator("kept")).select()
    assert len(merged) == len(set(merged)) == len(COEFFICIENTS) + 5 * 2
    monkeypatch.setattr(evaluator_module, "_KEPT_BYTES", 0)
    merged.clear()
    forgetful = Search(request_of(), make_evaluator("forgetful"))
    forgetful.select()
    assert len(merged) > len(set(merged))
    kept = Search(request_of(), make_evaluator("kept"))
    kept.select()
    pd.testing.assert_frame_equal(kept.scores(), forgetful.scores())


@pytest.mark.parametrize("racing", [None, Racing(examples=8)])
def test_candidates_are_selected_without_reading_the_test_split(
    make_evaluator, request_of, many, racing
):
    request = request_of(racing=racing)
    expected = Search(request, make_evaluator("readable"))
    expected.select()
    unreadable = many.copy()
    unreadable.loc[unreadable["split"] == "test", "text_a"] = None
    search = Search(request, make_evaluator("unreadable", unreadable))
    search.select()
    assert search.comparisons == expected.comparisons
    with pytest.raises((TypeError, ValueError)):
        search.test()


def test_a_finished_grid_is_replayed_without_evaluating_validation_again(
    make_evaluator, request_of, many, predicted
):
    full = request_of(racing=None, aim="each")
    merges(full, make_evaluator("full"))
    predicted.clear()
    examples = dict.fromkeys(full.experts, many)
    racings = [Racing(examples=8), Racing(start=0.9, keep=0.9, examples=8)]
    rows = pd.DataFrame(replay(full, make_evaluator("full"), examples, racings))
    assert {split for split, _ in predicted} <= {"test"}
    # Two races (coefficients, rates) for each of two tasks; nothing is saved with nine tenths.
    assert len(rows) == 2 * 2 * 2
    saving, exact = rows[rows["start"] == 0.125], rows[rows["start"] == 0.9]
    assert not exact["differs"].any()
    assert (exact["spent"] == exact["full"]).all()
    assert (saving["spent"] < 0.7 * saving["full"]).all()
    assert (saving.loc[~saving["differs"], "test"] == 0).all()
    # The race for real spends what its replay says, and chooses alike.
    raced, _ = merges(request_of(aim="each"), make_evaluator("raced"))
    compared = raced[raced["split"] == "validation"]
    assert compared["evaluations"].sum() == saving["spent"].sum()
    grid, _ = merges(full, make_evaluator("full"))
    chosen = [set(frame.loc[frame["selected"], "recipe_digest"]) for frame in (grid, raced)]
    assert (chosen[0] == chosen[1]) == (not saving["differs"].any())


def test_tables_say_how_far_candidates_came_and_what_was_saved(make_evaluator, request_of):
    raced, _ = merges(request_of(), make_evaluator("raced"))
    full, _ = merges(request_of(racing=None), make_evaluator("full"))
    candidates = tables.merge_candidates(raced)
    assert list(candidates.columns)[-1] == "share"
    assert candidates.loc[candidates["selected"], "share"].eq(1).all()
    assert candidates["share"].min() == 0.125
    assert "share" not in tables.merge_candidates(full)
    for frame, saved in ((raced, True), (full, False)):
        table = selection(frame)
        assert table["sparsifier"].tolist() == ["none", "dare", "all"]
        assert table["candidates"].tolist() == [8, 5, 6.5]
        assert (table["evaluated"] < 0.7).all() == saved
        assert saved or (table["evaluated"] == 1).all()
        chosen = frame[frame["selected"] & (frame["sparsifier"] == "dare")]
        means = chosen.groupby("split")["value"].mean()
        row = table[table["sparsifier"] == "dare"].iloc[0]
        assert row["optimism"] == pytest.approx(100 * (means["validation"] - means["test"]))
