"""Selection for single tasks, with an evaluator whose scores are given."""

import pytest

from mergegrid.methods.average import Average
from mergegrid.methods.task_arithmetic import TaskArithmetic
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.encoders.evaluator import EncoderEvaluator, EvaluatedExpert
from mergegrid.study.encoders.merges import merges
from mergegrid.study.encoders.store import ScoreStore
from mergegrid.study.encoders.sweep import sweep
from mergegrid.study.reporting import tables
from mergegrid.study.schema.encoder_jobs import MergesRequest
from mergegrid.study.schema.tasks import Target
from mergegrid.study.scoring.scores import Measurement
from mergegrid.study.tasks.metrics import score

TARGET = Target(task="praise", metric="accuracy", classes=[0, 1], max_length=16)


class GivenScores:
    """Scores by a rule: `praise` likes small coefficients and rates, `blame` large ones."""

    def __init__(self):
        self.scored = []

    def scores(self, recipe, split, heads=None):
        scores = {}
        for head in heads or recipe.experts:
            if (recipe, split, head) not in self.scored:
                self.scored.append((recipe, split, head))
            size = getattr(recipe.method, "coefficient", 0.5) + getattr(
                recipe.sparsifier, "rate", 0
            )
            value = 1 - size / 4 if head == "praise" else size / 4
            predictions = (1.0,) if split == "test" else None
            scores[head] = Measurement(value, 0.1, 1, predictions)
        return scores

    def inputs_digest(self, recipe):
        return "inputs"


def request(**changes):
    values = {
        "family": "tiny",
        "experts": ["praise", "blame"],
        "training_seed": 0,
        "targets": [TARGET, TARGET.model_copy(update={"task": "blame"})],
        "methods": [[TaskArithmetic(coefficient=c) for c in (0.5, 0.7, 1.0)], [Average()]],
        "sparsifiers": [
            [NoSparsifier()],
            [Dare(rate=rate, seed=seed) for rate in (0.1, 0.5, 0.9) for seed in (0, 1)],
        ],
        "selection": "validation",
        "aim": "each",
    }
    return MergesRequest(**(values | changes))


def selected(frame, **where):
    """Coefficients and rates that are selected, by head."""
    rows = frame[frame["selected"] & (frame["split"] == "test")]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return {
        head: sorted(
            set(zip(group["settings"].str.extract(r"t\":([\d.]+)")[0], group["rate"], strict=True))
        )
        for head, group in rows.groupby("head")
    }


@pytest.mark.parametrize("selection", ["validation", "test"])
def test_every_task_selects_its_own_settings_and_the_rate_is_searched_there(selection):
    frame, _ = merges(request(selection=selection), GivenScores())
    assert set(frame["aim"]) == {"each"}
    assert set(frame["selection"]) == {selection}
    assert selected(frame, method="task_arithmetic", sparsifier="none") == {
        "praise": [("0.5", 0)],
        "blame": [("1.0", 0)],
    }
    assert selected(frame, method="task_arithmetic", sparsifier="dare") == {
        "praise": [("0.5", 0.1)],
        "blame": [("1.0", 0.9)],
    }
    # Two heads; no sparsifier once, DARE with two masks; two methods.
    assert (frame["selected"] & (frame["split"] == "test")).sum() == 2 * 3 * 2


def test_a_selected_recipe_is_scored_on_test_only_where_it_was_selected():
    evaluator = GivenScores()
    frame, predictions = merges(request(), evaluator)
    tested = [(recipe.digest, head) for recipe, split, head in evaluator.scored if split == "test"]
    rows = frame[frame["split"] == "test"]
    assert sorted(tested) == sorted(zip(rows["recipe_digest"], rows["head"], strict=True))
    assert rows["selected"].all()
    assert set(zip(predictions["recipe_digest"], predictions["head"], strict=True)) == set(tested)
    # DARE with the method that is best for praise is compared on praise alone.
    compared = frame[(frame["split"] == "validation") & (frame["sparsifier"] == "dare")]
    arithmetic = compared[compared["method"] == "task_arithmetic"]
    heads = arithmetic.groupby("settings")["head"].unique().map(list).tolist()
    assert sorted(heads) == [["blame"], ["praise"]]


def test_a_candidate_is_selected_for_one_task_and_not_for_others():
    frame, _ = merges(request(selection="test"), GivenScores())
    plain = frame[(frame["method"] == "task_arithmetic") & (frame["sparsifier"] == "none")]
    assert len(plain) == 3 * 2
    assert plain.loc[plain["selected"], "head"].tolist() == ["praise", "blame"]


def test_by_the_mean_all_tasks_share_the_same_settings():
    frame, _ = merges(request(aim="mean"), GivenScores())
    assert set(frame["aim"]) == {"mean"}
    # All means are equal, and the first of equals wins.
    assert selected(frame, method="task_arithmetic", sparsifier="dare") == {
        "praise": [("0.5", 0.1)],
        "blame": [("0.5", 0.1)],
    }


def test_two_names_of_one_model_are_one_recipe():
    evaluator = GivenScores()
    none = [Dare(rate=0, seed=0), Dare(rate=0, seed=1)]
    frame, _ = merges(
        request(sparsifiers=[[NoSparsifier()], none], methods=[[Average(), Average()]]), evaluator
    )
    assert len(evaluator.scored) == len(frame) == 2
    assert set(frame["sparsifier"]) == {"none"}


def test_tables_tell_the_choices_of_each_task_apart():
    frame, _ = merges(request(), GivenScores())
    table = tables.merges(frame)
    arithmetic = table[table["method"] == "task_arithmetic"]
    assert arithmetic[["sparsifier", "task", "rate", "mean", "runs"]].to_numpy().tolist() == [
        ["none", "praise", 0, 1 - 0.5 / 4, 1],
        ["none", "blame", 0, 1 / 4, 1],
        ["dare", "praise", 0.1, 1 - 0.6 / 4, 2],
        ["dare", "blame", 0.9, pytest.approx(1.9 / 4), 2],
    ]
    summary = tables.merge_summary(frame)
    rows = summary[(summary["method"] == "task_arithmetic") & (summary["sparsifier"] == "dare")]
    mean = rows[rows["task"] == "mean"].iloc[0]
    assert mean["mean"] == pytest.approx((1 - 0.6 / 4 + 1.9 / 4) / 2)
    assert (mean["runs"], mean["rate"]) == (2, "0.1, 0.9")
    candidates = tables.merge_candidates(frame)
    best = candidates[candidates["selected"] & (candidates["method"] == "task_arithmetic")]
    assert best[["chosen_for", "sparsifier", "rate"]].to_numpy().tolist() == [
        ["praise", "none", 0],
        ["praise", "dare", 0.1],
        ["blame", "none", 0],
        ["blame", "dare", 0.9],
    ]
    by_mean = tables.merge_candidates(merges(request(aim="mean"), GivenScores())[0])
    assert set(by_mean["chosen_for"]) == {"mean"}


def test_predictions_give_the_scores_again(base, expert, examples, tmp_path):
    recipes = [
        Recipe(family="tiny", experts=("praise",), sparsifier=sparsifier)
        for sparsifier in (NoSparsifier(), Dare(rate=0.9))
    ]
    store = ScoreStore(tmp_path / "store.jsonl")
    evaluator = EncoderEvaluator(base, {"praise": EvaluatedExpert(expert, TARGET, examples)}, store)
    frame, predictions = sweep(TARGET, recipes, evaluator)
    labels = examples.loc[examples["split"] == "test", "label"].to_numpy()
    assert predictions["recipe_digest"].tolist() == frame["recipe_digest"].tolist()
    for value, answers in zip(frame["value"], predictions["predictions"], strict=True):
        assert score("accuracy", labels, answers) == value
    assert evaluator.scores(recipes[0], "validation")["praise"].predictions is None
