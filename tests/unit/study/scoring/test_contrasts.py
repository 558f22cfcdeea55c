"""Weights of differences, against computations by hand."""

import numpy as np
import pandas as pd
import pytest

from mergegrid.study.scoring.contrasts import COLUMNS, Weights, contrast, independent_sets


def side(*rows):
    """Cells: experts, task, training seed, mask seed and model; the head has the task's name."""
    frame = pd.DataFrame(rows, columns=["experts", "task", "training_seed", "mask_seed", "model"])
    return frame.assign(head=frame["task"]).astype({"mask_seed": "Int64"})[COLUMNS]


def test_sets_tasks_training_seeds_and_masks_count_equally_within_each_other():
    one = side(
        ("a+b", "a", 0, 0, 0),
        ("a+b", "a", 0, 1, 1),
        ("a+b", "b", 0, 0, 2),
        ("c+d", "c", 0, 0, 3),
        ("c+d", "c", 1, 0, 4),
    )
    values = np.array([0.1, 0.3, 0.6, 0.5, 0.7])
    weights = Weights(one)
    expected = ((0.2 + 0.6) / 2 + (0.5 + 0.7) / 2) / 2
    assert weights.whole @ values[weights.models] == pytest.approx(expected)


def test_sides_are_compared_where_both_have_scores():
    one = side(("a+b", "a", 0, None, 0), ("a+b", "a", 1, None, 1), ("a+c", "a", 0, None, 2))
    other = side(("a+b", "a", 0, None, 3), ("a+c", "a", 0, None, 4))
    made = contrast(Weights(one), Weights(other))
    assert made.models.tolist() == [0, 2, 3, 4]
    assert made.weights.tolist() == [0.5, 0.5, -0.5, -0.5]
    assert contrast(Weights(one), Weights(side(("b+c", "b", 0, None, 5)))) is None


def test_each_seed_is_left_out_on_both_sides_and_models_without_masks_stay():
    one = side(*[("a+b", "a", seed, mask, 2 * seed + mask) for seed in (0, 1) for mask in (0, 1)])
    other = side(("a+b", "a", 0, None, 4), ("a+b", "a", 1, None, 5))
    made = contrast(Weights(one), Weights(other))
    assert made.weights.tolist() == [0.25] * 4 + [-0.5] * 2
    assert made.left_out["masks"].tolist() == [
        [0, 0.5, 0, 0.5, -0.5, -0.5],
        [0.5, 0, 0.5, 0, -0.5, -0.5],
    ]
    assert made.left_out["training"].tolist() == [
        [0, 0, 0.5, 0.5, 0, -1],
        [0.5, 0.5, 0, 0, -1, 0],
    ]
    assert "sets" not in made.left_out


def test_a_level_with_one_unit_is_not_measured():
    made = contrast(Weights(side(("a+b", "a", 0, 0, 0))), Weights(side(("a+b", "a", 0, None, 1))))
    assert made.left_out == {}


def test_experts_are_left_out_with_all_sets_that_have_them():
    sets = ["a+b", "a+c", "b+c"]
    one = side(*[(text, text[0], 0, None, place) for place, text in enumerate(sets)])
    other = side(*[(text, text[0], 0, None, place + 3) for place, text in enumerate(sets)])
    made = contrast(Weights(one), Weights(other))
    # Without a only b+c is left, and so on.
    assert np.abs(made.left_out["sets"][:, :3]).tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("sets", "units"),
    [
        (["a+b", "c+d"], 2),  # Experts that are always together count once.
        (["a+b", "a+c", "a+d"], 3),  # The expert of all sets is not drawn with them.
        (["a+b"], 0),
        (["a+b", "a+c", "b+c", "a+b+c"], 3),
    ],
)
def test_units_of_sets_are_drawn_independently(sets, units):
    one = side(*[(text, f"of {text[-1]}", 0, None, place) for place, text in enumerate(sets)])
    one["head"] = [text[-1] for text in sets]
    other = one.assign(model=one["model"] + len(sets))
    found = contrast(Weights(one), Weights(other)).left_out.get("sets", [])
    assert len(found) == units


@pytest.mark.parametrize(
    ("sets", "number"),
    [
        (["a+b"], 1),
        (["a+b", "c+d"], 2),
        (["a+b", "a+c", "a+d", "b+c", "b+d", "c+d"], 2),
        (["a+b", "a+c"], 1),  # One expert is in both.
        (["a", "b", "c"], 3),
    ],
)
def test_sets_that_share_experts_are_fewer_independent_ones(sets, number):
    one = side(*[(text, text[0], 0, None, place) for place, text in enumerate(sets)])
    assert independent_sets(Weights(one)) == number


def test_experts_that_share_a_task_are_left_out_together():
    rows = [("a", "gsm8k", 0, None, 0), ("b", "gsm8k", 0, None, 1), ("c", "mbpp", 0, None, 2)]
    one = side(*rows)
    one["head"] = one["experts"]
    made = contrast(Weights(one), Weights(one.assign(model=one["model"] + 3)))
    assert made.left_out["sets"][:, :3].tolist() == [[0, 0, 1], [0.5, 0.5, 0]]
