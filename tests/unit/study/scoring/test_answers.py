"""Form of answers, against values computed by hand."""

import numpy as np
import pandas as pd
import pytest

from mergegrid.study.scoring.answers import answer_forms
from mergegrid.study.scoring.scores import COLUMNS


def score(recipe="a", task="sums", split="test", **values):
    row = dict.fromkeys(COLUMNS)
    row |= {"recipe_digest": recipe, "task": task, "split": split, "metric": "accuracy"}
    return {**row, "primary": True, "engine": "vllm", "value": 0.5, **values}


def record(id, output="", verdict="wrong", **values):
    row = {"recipe_digest": "a", "benchmark": "sums", "split": "test", "id": id, "tokens": 10}
    return {
        **row,
        "output": output,
        "finish": "stop",
        "extracted": output,
        "verdict": verdict,
    } | values


def forms(folder, records, scores=None):
    paths = []
    for number, rows in enumerate(records):
        paths.append(folder / f"{number}.parquet")
        pd.DataFrame(rows).to_parquet(paths[-1])
    return answer_forms(pd.DataFrame(scores or [score()]), paths)


def test_length_cut_and_reasoning_are_means_over_questions_and_samples(tmp_path):
    rows = [
        record("q", "<think>1</think>2", tokens=10),
        record("q", "2", tokens=30, finish="length"),
        record("r", "<think>1", tokens=100, finish="length"),
        record("r", "[/THINK]", tokens=100, finish="length"),
    ]
    (row,) = forms(tmp_path, [rows]).to_dict("records")
    assert (row["tokens"], row["samples"], row["value"]) == (60, 2, 0.5)
    # Standard deviation of 20 and 100 over the root of 2.
    assert row["tokens_stderr"] == pytest.approx(40)
    assert row["cut"] == (0.5 + 1) / 2
    # An answer that was cut while it reasoned has no mark.
    assert row["thinks"] == (0.5 + 0.5) / 2


def test_every_recipe_benchmark_and_split_is_a_row_of_its_own(tmp_path):
    scores = [
        score("a"), score("b"), score("a", split="validation"), score("a", "words"),
        score("a", metric="unparsed", primary=False), score("e", task="trec", engine=""),
    ]  # fmt: skip
    sums = [
        record("q", tokens=1),
        record("r", tokens=2, split="validation"),
        record("q", tokens=3, recipe_digest="b"),
    ]
    made = forms(tmp_path, [sums, [record("q", tokens=4, benchmark="words")]], scores)
    assert made["tokens"].tolist() == [1, 3, 2, 4]
    assert made["metric"].eq("accuracy").all()


def test_one_sample_has_neither_votes_nor_pass_at_k(tmp_path):
    made = forms(tmp_path, [[record("q", verdict="right")]])
    assert np.isnan(made["majority"][0])
    assert not [name for name in made.columns if name.startswith("pass@")]


def asked(folder, *samples):
    """The row of one question with some samples, given as text and verdict."""
    (row,) = forms(folder, [[record("q", *each) for each in samples]]).to_dict("records")
    return row


RIGHT, WRONG, NONE = ("5", "right"), ("6", "wrong"), (None, "unparsed")


@pytest.mark.parametrize(
    ("samples", "share"),
    [
        ([RIGHT, ("5.0", "right"), WRONG], 1),
        ([WRONG, ("6.00", "wrong"), RIGHT], 0),
        ([RIGHT, WRONG], 0.5),
        ([RIGHT, WRONG, ("seven", "wrong")], 1 / 3),
        ([RIGHT, NONE, NONE], 1),
        ([NONE, NONE], 0),
        # Zero is a number, and one is not what is right.
        ([("0", "wrong"), ("0.0", "wrong"), RIGHT], 0),
        ([("1", "wrong"), ("1", "wrong"), RIGHT], 0),
    ],
)
def test_the_most_frequent_result_wins(tmp_path, samples, share):
    rows = [record("q", text or "", verdict, extracted=text) for text, verdict in samples]
    assert forms(tmp_path, [rows])["majority"][0] == pytest.approx(share)


def test_pass_at_k_is_the_unbiased_estimate_for_powers_of_two_and_all_samples(tmp_path):
    row = asked(tmp_path, RIGHT, *[WRONG] * 5)
    passes = {name: value for name, value in row.items() if name.startswith("pass@")}
    # One of six is right: k of them contain it with probability k / 6.
    assert passes == pytest.approx({"pass@2": 2 / 6, "pass@4": 4 / 6, "pass@6": 1})


def test_programs_do_not_vote(tmp_path):
    row = asked(tmp_path, ("x = 1", "passed"), ("x = 1", "failed"))
    assert np.isnan(row["majority"])
    assert row["pass@2"] == 1


def test_a_benchmark_without_samples_has_no_pass_at_k_beside_one_with_samples(tmp_path):
    sampled = [record("q", *RIGHT), record("q", *WRONG)]
    greedy = [record("q", *RIGHT, benchmark="words")]
    made = forms(tmp_path, [greedy, sampled], [score(), score(task="words")])
    made = made.set_index("task")
    assert made.at["sums", "pass@2"] == 1
    assert np.isnan(made.at["words", "pass@2"])


def test_a_study_without_answers_has_columns_and_no_rows():
    made = answer_forms(pd.DataFrame([score(engine="")]), [])
    assert made.empty
    assert {"tokens", "cut", "thinks", "value"} <= set(made.columns)
