"""Selection among candidates, against means computed by hand."""

import pandas as pd
import pytest

from mergegrid.methods.average import Average
from mergegrid.methods.ties import Ties
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.sparsifiers.magnitude import Magnitude
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.study.scoring.choice import choose
from mergegrid.study.scoring.scores import Measurement, score_frame, score_row

SPLIT = "validation"


def rows(method, sparsifier, values, split=SPLIT, seed=0, experts=("a", "b"), **changes):
    """Return the scores of a recipe from values by benchmark."""
    recipe = Recipe(
        family="llama", experts=experts, training_seed=seed, sparsifier=sparsifier, method=method
    )
    study = "sweep" if len(experts) == 1 else "merges"
    selection = changes.pop("selection", SPLIT)
    return [
        score_row(
            study,
            recipe,
            "a",
            task,
            "accuracy",
            split,
            Measurement(value, 0.1, 10),
            selected=False,
            selection=selection,
            inputs_digest="x",
            **changes,
        )
        for task, value in values.items()
    ]


def chosen(actual):
    """Return the selected candidates: method, sparsifier, rate, settings."""
    table = choose(score_frame(actual))
    kept = table[table["selected"]]
    keys = ["method", "sparsifier", "rate", "settings"]
    return list(kept[keys].drop_duplicates().itertuples(index=False, name=None))


def dare(rate, seed=0):
    return Dare(rate=rate, seed=seed)


def test_the_best_mean_over_benchmarks_and_mask_seeds_is_selected():
    actual = [
        # Means 0.5, 0.55 and 0.525: the best benchmark and the best seed are not those chosen.
        *rows(Average(), dare(0.1, 0), {"sums": 0.9, "words": 0.1}),
        *rows(Average(), dare(0.1, 1), {"sums": 0.9, "words": 0.1}),
        *rows(Average(), dare(0.5, 0), {"sums": 0.4, "words": 0.7}),
        *rows(Average(), dare(0.5, 1), {"sums": 0.4, "words": 0.7}),
        *rows(Average(), dare(0.9, 0), {"sums": 1.0, "words": 1.0}),
        *rows(Average(), dare(0.9, 1), {"sums": 0.1, "words": 0.0}),
    ]
    assert [rate for _, _, rate, _ in chosen(actual)] == [0.5]
    table = choose(score_frame(actual))
    assert table["selected"].sum() == 4


def test_every_method_with_every_sparsifier_has_its_own_selection():
    actual = []
    for weight, method in enumerate([Average(), Ties(trim=0.5), Ties(trim=0.8)]):
        actual += rows(method, NoSparsifier(), {"sums": 0.1 * weight})
        for rate in (0.1, 0.9):
            actual += rows(method, dare(rate), {"sums": rate if weight == 1 else 0.3 - rate / 10})
    by_kind = {(method, front): (rate, text) for method, front, rate, text in chosen(actual)}
    assert len(chosen(actual)) == len(by_kind) == 4
    assert by_kind["average", "none"][0] == 0
    assert by_kind["average", "dare"][0] == 0.1
    assert by_kind["ties", "dare"][0] == 0.9
    assert '"trim":0.5' in by_kind["ties", "dare"][1]
    assert '"trim":0.8' in by_kind["ties", "none"][1]


def test_settings_of_a_sparsifier_are_candidates_too():
    actual = [
        *rows(Average(), Magnitude(rate=0.5, scope="global"), {"sums": 0.2}),
        *rows(Average(), Magnitude(rate=0.5, scope="per_tensor"), {"sums": 0.4}),
    ]
    assert ['"scope":"per_tensor"' in text for *_, text in chosen(actual)] == [True]


@pytest.mark.parametrize("order", [(0.1, 0.5, 0.9), (0.9, 0.5, 0.1)])
def test_the_first_of_equal_candidates_is_selected(order):
    actual = [row for rate in order for row in rows(Average(), dare(rate), {"sums": 0.5})]
    assert [rate for _, _, rate, _ in chosen(actual)] == [order[0]]


@pytest.mark.parametrize(("selection", "best"), [("validation", 0.1), ("test", 0.9)])
def test_only_the_split_of_the_selection_and_primary_metrics_count(selection, best):
    actual = []
    for rate in (0.1, 0.9):
        common = {"selection": selection}
        actual += rows(Average(), dare(rate), {"sums": 1 - rate}, **common)
        actual += rows(Average(), dare(rate), {"sums": rate}, split="test", **common)
        for split in ("validation", "test"):
            value = {"sums": 10 * (1 - rate) if selection == "test" else 10 * rate}
            actual += rows(Average(), dare(rate), value, split=split, primary=False, **common)
    assert [rate for _, _, rate, _ in chosen(actual)] == [best]
    # All rows of what is chosen are marked, those of the other split and metrics too.
    assert choose(score_frame(actual))["selected"].sum() == 4


def test_mask_seeds_alone_are_not_candidates():
    actual = [
        row
        for seed in range(3)
        for row in rows(Average(), dare(0.9, seed), {"sums": seed / 10}, selection="none")
    ]
    assert choose(score_frame(actual))["selected"].all()


def test_a_sweep_selects_every_recipe():
    actual = [
        row
        for rate in (0.1, 0.9)
        for row in rows(Average(), dare(rate), {"sums": rate}, experts=("a",), selection="none")
    ]
    assert choose(score_frame(actual))["selected"].all()


def test_training_seeds_select_independently():
    actual = [
        *rows(Average(), dare(0.1), {"sums": 0.9}, seed=0),
        *rows(Average(), dare(0.5), {"sums": 0.1}, seed=0),
        *rows(Average(), dare(0.1), {"sums": 0.2}, seed=1),
        *rows(Average(), dare(0.5), {"sums": 0.3}, seed=1),
    ]
    table = choose(score_frame(actual))
    kept = table[table["selected"]]
    assert list(zip(kept["training_seed"], kept["rate"], strict=True)) == [(0, 0.1), (1, 0.5)]


def test_a_value_that_is_missing_is_never_the_best():
    nan = float("nan")
    actual = [
        *rows(Average(), dare(0.1), {"sums": nan}),
        *rows(Average(), dare(0.5), {"sums": 0.1}),
        *rows(Average(), dare(0.9), {"sums": 0.0}),
    ]
    assert [rate for _, _, rate, _ in chosen(actual)] == [0.5]


def test_scores_are_unchanged_except_for_selected():
    actual = score_frame(
        [row for rate in (0.1, 0.5) for row in rows(Average(), dare(rate), {"sums": rate})]
    )
    before = actual.copy()
    table = choose(actual)
    pd.testing.assert_frame_equal(actual, before)
    pd.testing.assert_frame_equal(table.drop(columns="selected"), before.drop(columns="selected"))
    assert table["selected"].dtype == bool


def test_scores_on_the_test_split_do_not_decide():
    def chosen(of_test):
        candidates = [(Ties(trim=0.7), 0.5), (Ties(trim=0.8), 0.6)]
        table = [
            row
            for (method, value), test in zip(candidates, of_test, strict=True)
            for split, score in ((SPLIT, value), ("test", test))
            for row in rows(method, NoSparsifier(), {"x": score}, split)
        ]
        return choose(score_frame(table))["selected"].tolist()

    unreadable = float("nan")
    assert chosen([0.9, 0.1]) == chosen([0.1, 0.9]) == chosen([unreadable] * 2)
    assert chosen([0.9, 0.1]) == [False, False, True, True]
