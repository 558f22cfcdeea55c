"""Measures of merges, against values computed by hand."""

import numpy as np
import pandas as pd
import pytest

from mergegrid.study.reporting.measures import against_experts, forgetting, success_rates
from mergegrid.study.scoring.scores import score_frame

BASE = {"sparsifier": "drop_only", "rate": 1.0, "mask_seed": 0}


def row(study, experts, task, value, **values):
    built = {
        "study": study, "family": "llama", "experts": experts, "training_seed": 0,
        "sparsifier": "none", "rate": 0.0, "mask_seed": None, "method": "average",
        "settings": '{"method":{},"sparsifier":{}}', "head": experts, "task": task,
        "split": "test", "metric": "accuracy", "primary": True, "value": value, "stderr": 0.01,
        "n": 50, "selected": True, "selection": "none", "aim": "none", "recipe": "slug",
        "engine": "vllm", "inputs_digest": "x", **values,
    }  # fmt: skip
    point = [built[name] for name in ("experts", "training_seed", "sparsifier", "mask_seed")]
    return {"recipe_digest": str([*point, built["method"]]), **built}


def alone(expert, task, value, base, **values):
    return [row("sweep", expert, task, value, **values),
            row("sweep", expert, task, base, **{**BASE, **values})]  # fmt: skip


def merged(task, value, head, experts="code+math", **values):
    return row("merges", experts, task, value, head=head, selection="validation", **values)


EXPERTS = [*alone("math", "sums", 0.8, 0.2), *alone("code", "programs", 0.5, 0.4)]
MERGES = [merged("sums", 0.4, "math"), merged("programs", 0.6, "code")]


def only(table):
    assert len(table) == 1
    return table.iloc[0]


def test_percent_is_the_mean_of_ratios_and_not_the_ratio_of_means():
    made = only(against_experts(score_frame([*EXPERTS, *MERGES])))
    assert made["percent"] == pytest.approx((50 + 120) / 2)
    assert made["percent"] != pytest.approx(100 * (0.4 + 0.6) / (0.8 + 0.5))
    assert (made["tasks"], made["runs"], made["mean"]) == (2, 1, 0.5)
    assert made["gain"] == pytest.approx(0.5 - 0.3)
    assert made["retained"] == pytest.approx(0.2 / 0.35)
    assert np.isnan(made["percent_std"])


def test_a_negative_score_keeps_its_sign():
    values = [merged("sums", -0.4, "math"), merged("programs", 0.5, "code")]
    made = only(against_experts(score_frame([*EXPERTS, *values])))
    assert made["percent"] == pytest.approx((-50 + 100) / 2)


@pytest.mark.parametrize("score", [0.02, 0.0, -0.5])
def test_there_is_no_percent_of_an_expert_without_a_score(score):
    weak = [*alone("math", "sums", score, 0.0), *alone("code", "programs", 0.5, 0.4)]
    assert np.isnan(only(against_experts(score_frame([*weak, *MERGES])))["percent"])


def test_every_run_is_compared_with_its_training_seed_and_masks_are_the_spread():
    seeds = [
        *alone("math", "sums", 0.8, 0.2),
        *alone("math", "sums", 0.4, 0.2, training_seed=1),
        *alone("code", "programs", 0.5, 0.4),
        *alone("code", "programs", 0.5, 0.4, training_seed=1),
    ]
    dare = {"sparsifier": "dare", "rate": 0.9}
    values = [
        merged(task, value, head, **dare, mask_seed=mask, training_seed=seed)
        for seed, mask, sums in ((0, 0, 0.8), (0, 1, 0.4), (1, 0, 0.4), (1, 1, 0.2))
        for task, value, head in (("sums", sums, "math"), ("programs", 0.5, "code"))
    ]
    made = only(against_experts(score_frame([*seeds, *values])))
    # 100, 75, 100 and 75 percent.
    assert (made["runs"], made["rate"], made["percent"]) == (4, "0.9", pytest.approx(87.5))
    assert made["percent_std"] == pytest.approx(np.std([100, 75, 100, 75], ddof=1))


def test_the_best_expert_is_known_if_every_expert_has_every_task():
    known = [row("sweep", "math", "programs", 0.3), row("sweep", "code", "sums", 0.1)]
    scores = [*EXPERTS, *MERGES]
    assert np.isnan(only(against_experts(score_frame(scores)))["over_best"])
    assert np.isnan(only(against_experts(score_frame([*scores, known[0]])))["over_best"])
    made = only(against_experts(score_frame([*scores, *known])))
    # math: (0.8 + 0.3) / 2, code: (0.1 + 0.5) / 2.
    assert made["over_best"] == pytest.approx(0.5 - 0.55)
    # In shares of the best of each task, experts are (1, 0.6) and (0.125, 1), the merge (0.5, 1.2).
    assert made["hypervolume"] == pytest.approx(0.6 - (0.3 + 0.125 - 0.075))


def test_success_is_counted_over_sets_and_sizes():
    law = alone("law", "cases", 0.6, 0.5)
    more = [
        merged("cases", 0.4, "law", "code+law"), merged("programs", 0.4, "code", "code+law"),
        merged("cases", 0.9, "law", "code+law+math"), merged("sums", 0.9, "math", "code+law+math"),
        merged("programs", 0.9, "code", "code+law+math"),
    ]  # fmt: skip
    made = success_rates(score_frame([*EXPERTS, *law, *MERGES, *more])).set_index("size")
    assert made["sets"].to_dict() == {"2": 2, "3": 1, "all": 3}
    assert made["over_base"].to_dict() == pytest.approx({"2": 1 / 2, "3": 1, "all": 2 / 3})
    # Wilson's interval of 1 of 2, as published for 95 %.
    assert made.loc["2", ["low", "high"]].tolist() == pytest.approx([0.0945, 0.9055], abs=1e-4)
    two = [(50 + 120) / 2, (400 / 6 + 80) / 2]
    assert made.at["2", "percent"] == pytest.approx(np.mean(two))
    assert made.at["2", "percent_std"] == pytest.approx(np.std(two, ddof=1))
    assert np.isnan(made.at["2", "over_best_expert"])


def test_sets_without_a_sweep_have_no_success_rate():
    made = only(success_rates(score_frame(MERGES)))
    assert made["sets"] == 1
    assert made[["over_base", "low", "percent"]].isna().all()


def test_forgetting_is_the_change_from_the_base_on_tasks_of_nobody():
    nobody = {"head": "", "metric": "acc,none", "primary": False}
    rows = [
        row("sweep", "math", "arc", 0.5, **nobody, **BASE),
        row("sweep", "code", "arc", 0.5, **nobody, **BASE),
        row("sweep", "math", "arc", 0.3, **nobody),
        row("merges", "code+math", "arc", 0.4, **nobody),
        row("merges", "code+math", "arc", 0.7, **{**nobody, "metric": "acc_norm,none"}),
    ]
    made = forgetting(score_frame([*EXPERTS, *MERGES, *rows]))
    assert set(made["task"]) == {"arc"}
    changes = made.set_index(["experts", "sparsifier", "metric"])["change"]
    assert changes["math", "none", "acc,none"] == pytest.approx(-0.2)
    assert changes["code+math", "none", "acc,none"] == pytest.approx(-0.1)
    assert changes["math", "base", "acc,none"] == 0
    # The base has no score of this metric.
    assert np.isnan(changes["code+math", "none", "acc_norm,none"])


@pytest.mark.parametrize("make", [against_experts, success_rates, forgetting])
def test_no_scores_give_an_empty_table(make):
    assert make(score_frame([])).empty
    assert isinstance(make(score_frame(EXPERTS)), pd.DataFrame)
