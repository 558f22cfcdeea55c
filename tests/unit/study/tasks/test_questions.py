import json
import os
from pathlib import Path

import pandas as pd
import pytest

from mergegrid.errors import DataError
from mergegrid.study.schema.benchmarks import Benchmark
from mergegrid.study.tasks.questions import prepare_questions

GSM8K = [
    {"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
    {"question": "What is 4 * 5?", "answer": "It is 20.\n#### 20"},
    {"question": "What is 7 - 9?", "answer": "#### -2"},
]
MBPP = {
    "task_id": 11,
    "text": "Write a function to double.",
    "code": "def double(x):\r\n    return 2 * x",
    "test_list": ["assert double(1) == 2", "assert double(0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "\n\ndef one():\n    '''Gives 1.'''\n",
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}
TALK = {
    "instruction": "Say hello.",
    "output": "Hello!",
    "generator": "x",
    "dataset": "selfinstruct",
}
JUDGE = {"model": "tiny"}


def benchmark(kind, **changes):
    values = {"kind": kind, "records": {"source": "path:records.jsonl"}}
    if kind == "alpaca_eval":
        values["judge"] = JUDGE
    return Benchmark.model_validate(values | changes)


@pytest.fixture
def ask(tmp_path):
    """Writes records as JSON lines and makes the questions of them."""

    def asked(kind, records, **changes):
        path = tmp_path / "records.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return prepare_questions(benchmark(kind, **changes), path)

    return asked


def reference(questions, row=0):
    return json.loads(questions["reference"][row])


def test_a_question_stands_in_the_prompt_and_alone(ask):
    asked = ask("gsm8k", GSM8K, prompt="Q: {instruction}\nA:")
    assert list(asked.columns) == ["id", "instruction", "prompt", "reference"]
    assert set(asked.dtypes) == {pd.StringDtype()}
    assert asked["id"].tolist() == ["0", "1", "2"]
    assert asked["instruction"][1] == "What is 4 * 5?"
    assert asked["prompt"][1] == "Q: What is 4 * 5?\nA:"
    assert reference(asked, 1) == {"answer": "It is 20.\n#### 20"}


def test_braces_of_a_question_are_left_alone(ask):
    record = GSM8K[0] | {"question": "Is {instruction} or {x} in {{braces}}?"}
    asked = ask("gsm8k", [record], prompt="{instruction} / {instruction} {y}")
    text = record["question"]
    assert asked["prompt"][0] == f"{text} / {text} {{y}}"


def test_a_question_keeps_its_name_when_others_are_left_out(ask):
    whole = ask("gsm8k", GSM8K).set_index("id")
    some = ask("gsm8k", GSM8K, start=1, end=9).set_index("id")
    assert list(some.index) == ["1", "2"]
    pd.testing.assert_frame_equal(some, whole.loc[["1", "2"]])
    assert ask("gsm8k", GSM8K, end=1)["id"].tolist() == ["0"]


def test_a_start_behind_the_last_question_is_refused(ask):
    with pytest.raises(
        DataError, match="the gsm8k records are 3, and questions start at 3; give a"
    ):
        ask("gsm8k", GSM8K, start=3)


def test_a_file_without_records_is_refused(ask):
    with pytest.raises(DataError, match=r"gsm8k records are 0, .*; give files that hold some"):
        ask("gsm8k", [])


@pytest.mark.parametrize(
    ("kind", "record", "lacking"),
    [
        ("gsm8k", GSM8K[0], "question"),
        ("gsm8k", GSM8K[0], "answer"),
        ("mbpp", MBPP, "test_list"),
        ("mbpp", MBPP, "task_id"),
        ("humaneval", HUMANEVAL, "entry_point"),
        ("humaneval", HUMANEVAL, "test"),
        ("alpaca_eval", TALK, "output"),
        ("instructions", {"instruction": "a", "output": "b"}, "output"),
    ],
)
def test_a_record_without_a_column_is_refused_with_what_it_has(ask, kind, record, lacking):
    rest = {name: value for name, value in record.items() if name != lacking}
    with pytest.raises(DataError) as error:
        ask(kind, [rest])
    assert "record 1" in str(error.value)
    assert f" of {kind} has columns {next(iter(rest))}" in str(error.value)
    assert str(error.value).endswith(f"and none of {lacking}; name the right files")
    with pytest.raises(DataError, match=f"none of {lacking}"):
        ask(kind, [record, record | {lacking: None}])


def test_two_records_of_one_name_are_refused(ask):
    with pytest.raises(DataError, match="mbpp are called 11, the records 1 and 2; name the right"):
        ask("mbpp", [MBPP, MBPP | {"text": "Another."}])


def test_mbpp_shows_its_tests_and_keeps_what_a_score_needs(ask):
    asked = ask("mbpp", [MBPP])
    assert asked["id"][0] == "11"
    assert asked["instruction"][0] == (
        "Write a function to double.\nTest examples:\nassert double(1) == 2\nassert double(0) == 0"
    )
    kept = ("task_id", "text", "code", "test_list", "test_setup_code")
    assert reference(asked) == {name: MBPP[name] for name in kept}


def test_mbpp_is_read_the_same_out_of_parquet(ask, tmp_path):
    pd.DataFrame([MBPP, MBPP | {"task_id": 12}]).to_parquet(tmp_path / "records.parquet")
    other = prepare_questions(benchmark("mbpp"), tmp_path / "records.parquet")
    pd.testing.assert_frame_equal(other, ask("mbpp", [MBPP, MBPP | {"task_id": 12}]))


def test_humaneval_is_asked_by_its_prompt_and_scored_by_the_whole_record(ask):
    asked = ask("humaneval", [HUMANEVAL])
    assert asked["id"][0] == "HumanEval/0"
    assert asked["instruction"][0] == HUMANEVAL["prompt"].strip("\n")
    assert reference(asked) == HUMANEVAL


def test_programs_are_shown_with_tabs_in_the_papers_prompt_alone(ask):
    usual, own = (
        ask("humaneval", [HUMANEVAL]),
        ask("humaneval", [HUMANEVAL], prompt="{instruction}"),
    )
    assert "def one():\n\t'''Gives 1.'''" in usual["prompt"][0]
    assert "    " not in usual["prompt"][0]
    assert own["prompt"][0] == own["instruction"][0] == usual["instruction"][0]


def test_humaneval_comes_with_its_package():
    asked = prepare_questions(Benchmark(kind="humaneval"), None)
    assert len(asked) == 164
    assert asked["id"].tolist() == [f"HumanEval/{number}" for number in range(164)]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"problem": "p", "solution": "so \\boxed{5}"}, {"solution": "so \\boxed{5}"}),
        ({"problem": "p", "solution": "s", "answer": "5"}, {"answer": "5"}),
        ({"problem": "p", "answer": "\\boxed{5}"}, {"answer": "5"}),
        ({"problem": "p", "solution": "\\boxed{5}", "answer": ""}, {"solution": "\\boxed{5}"}),
        ({"problem": "p", "solution": "\\boxed{5}", "answer": None}, {"solution": "\\boxed{5}"}),
        ({"problem": "p", "answer": 5}, {"answer": "5"}),
        ({"instruction": "p", "output": "\\boxed{5}"}, {"solution": "\\boxed{5}"}),
    ],
)
def test_math_has_an_answer_or_a_solution_with_one(ask, record, expected):
    asked = ask("math", [record])
    assert asked["instruction"][0] == "p"
    assert reference(asked) == expected


def test_problems_of_math_go_by_their_name_where_they_have_one(ask):
    records = [
        {"problem": "p", "answer": "5", "unique_id": "test/algebra/1.json"},
        {"problem": "q", "answer": "6"},
    ]
    assert ask("math", records)["id"].tolist() == ["test/algebra/1.json", "1"]


def test_alpaca_eval_keeps_the_reference_and_its_source(ask):
    bare = {name: TALK[name] for name in ("instruction", "output")}
    asked = ask("alpaca_eval", [TALK, bare])
    assert reference(asked, 0) == {"output": "Hello!", "dataset": "selfinstruct"}
    assert reference(asked, 1) == {"output": "Hello!", "dataset": ""}


@pytest.mark.parametrize(
    ("kind", "generator"),
    [("instructions", "instructions"), ("gsm8k", "word_problems"), ("mbpp", "functions")],
)
def test_generated_questions_are_those_of_their_seed(kind, generator):
    def asked(seed):
        generated = {"generator": generator, "count": 4, "seed": seed}
        return prepare_questions(benchmark(kind, records=None, generated=generated), None)

    pd.testing.assert_frame_equal(asked(1), asked(1))
    assert len(asked(1)) == 4
    assert not set(asked(1)["prompt"]) & set(asked(2)["prompt"])


REAL = {"gsm8k": 1319, "math": 500, "mbpp": 500}


@pytest.mark.parametrize(("kind", "count"), REAL.items())
def test_real_records_become_questions(kind, count):
    if "BENCHMARK_DATA" not in os.environ:
        pytest.skip("BENCHMARK_DATA is not set; let it name the folder with gsm8k/test.jsonl")
    path = Path(os.environ["BENCHMARK_DATA"], kind, "test.jsonl")
    asked = prepare_questions(benchmark(kind), path)
    assert len(asked) == count
    assert not asked.isna().any(axis=None)
    assert asked["prompt"].is_unique
