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
def prepare(tmp_path):
    """Writes records as JSON lines and prepares their questions."""

    def prepared(kind, records, **changes):
        path = tmp_path / "records.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return prepare_questions(benchmark(kind, **changes), path)

    return prepared


def reference(questions, row=0):
    return json.loads(questions["reference"][row])


def test_a_question_stands_in_the_prompt_and_alone(prepare):
    questions = prepare("gsm8k", GSM8K, prompt="Q: {instruction}\nA:")
    assert list(questions.columns) == ["id", "instruction", "prompt", "reference"]
    assert set(questions.dtypes) == {pd.StringDtype()}
    assert questions["id"].tolist() == ["0", "1", "2"]
    assert questions["instruction"][1] == "What is 4 * 5?"
    assert questions["prompt"][1] == "Q: What is 4 * 5?\nA:"
    assert reference(questions, 1) == {"answer": "It is 20.\n#### 20"}


def test_braces_of_a_question_are_left_alone(prepare):
    record = GSM8K[0] | {"question": "Is {instruction} or {x} in {{braces}}?"}
    questions = prepare("gsm8k", [record], prompt="{instruction} / {instruction} {y}")
    text = record["question"]
    assert questions["prompt"][0] == f"{text} / {text} {{y}}"


def test_a_question_keeps_its_name_when_others_are_left_out(prepare):
    whole = prepare("gsm8k", GSM8K).set_index("id")
    some = prepare("gsm8k", GSM8K, start=1, end=9).set_index("id")
    assert list(some.index) == ["1", "2"]
    pd.testing.assert_frame_equal(some, whole.loc[["1", "2"]])
    assert prepare("gsm8k", GSM8K, end=1)["id"].tolist() == ["0"]


def test_a_start_behind_the_last_question_is_refused(prepare):
    with pytest.raises(
        DataError, match="`start` is 3, but there are 3 gsm8k records; lower `start`"
    ):
        prepare("gsm8k", GSM8K, start=3)


def test_a_file_without_records_is_refused(prepare):
    with pytest.raises(DataError, match=r"there are no gsm8k records; choose files"):
        prepare("gsm8k", [])


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
def test_a_record_without_a_column_is_refused_with_what_it_has(prepare, kind, record, lacking):
    rest = {name: value for name, value in record.items() if name != lacking}
    with pytest.raises(DataError) as error:
        prepare(kind, [rest])
    assert "record 1" in str(error.value)
    assert f" of {kind} has none of the columns {lacking};" in str(error.value)
    assert f"it has {next(iter(rest))}" in str(error.value)
    with pytest.raises(DataError, match=f"none of the columns {lacking}"):
        prepare(kind, [record, record | {lacking: None}])


def test_two_records_of_one_name_are_refused(prepare):
    with pytest.raises(DataError, match="two mbpp records have the id 11: records 1 and 2; check"):
        prepare("mbpp", [MBPP, MBPP | {"text": "Another."}])


def test_mbpp_shows_its_tests_and_keeps_what_a_score_needs(prepare):
    questions = prepare("mbpp", [MBPP])
    assert questions["id"][0] == "11"
    assert questions["instruction"][0] == (
        "Write a function to double.\nTest examples:\nassert double(1) == 2\nassert double(0) == 0"
    )
    kept = ("task_id", "text", "code", "test_list", "test_setup_code")
    assert reference(questions) == {name: MBPP[name] for name in kept}


def test_mbpp_is_read_the_same_out_of_parquet(prepare, tmp_path):
    pd.DataFrame([MBPP, MBPP | {"task_id": 12}]).to_parquet(tmp_path / "records.parquet")
    other = prepare_questions(benchmark("mbpp"), tmp_path / "records.parquet")
    pd.testing.assert_frame_equal(other, prepare("mbpp", [MBPP, MBPP | {"task_id": 12}]))


def test_humaneval_is_asked_by_its_prompt_and_scored_by_the_whole_record(prepare):
    questions = prepare("humaneval", [HUMANEVAL])
    assert questions["id"][0] == "HumanEval/0"
    assert questions["instruction"][0] == HUMANEVAL["prompt"].strip("\n")
    assert reference(questions) == HUMANEVAL


def test_programs_are_shown_with_tabs_in_the_papers_prompt_alone(prepare):
    usual, custom = (
        prepare("humaneval", [HUMANEVAL]),
        prepare("humaneval", [HUMANEVAL], prompt="{instruction}"),
    )
    assert "def one():\n\t'''Gives 1.'''" in usual["prompt"][0]
    assert "    " not in usual["prompt"][0]
    assert custom["prompt"][0] == custom["instruction"][0] == usual["instruction"][0]


def test_humaneval_comes_with_its_package():
    questions = prepare_questions(Benchmark(kind="humaneval"), None)
    assert len(questions) == 164
    assert questions["id"].tolist() == [f"HumanEval/{number}" for number in range(164)]


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
def test_math_has_an_answer_or_a_solution_with_one(prepare, record, expected):
    questions = prepare("math", [record])
    assert questions["instruction"][0] == "p"
    assert reference(questions) == expected


def test_problems_of_math_go_by_their_name_where_they_have_one(prepare):
    records = [
        {"problem": "p", "answer": "5", "unique_id": "test/algebra/1.json"},
        {"problem": "q", "answer": "6"},
    ]
    assert prepare("math", records)["id"].tolist() == ["test/algebra/1.json", "1"]


def test_alpaca_eval_keeps_the_reference_and_its_source(prepare):
    bare = {name: TALK[name] for name in ("instruction", "output")}
    questions = prepare("alpaca_eval", [TALK, bare])
    assert reference(questions, 0) == {"output": "Hello!", "dataset": "selfinstruct"}
    assert reference(questions, 1) == {"output": "Hello!", "dataset": ""}


@pytest.mark.parametrize(
    ("kind", "generator"),
    [("instructions", "instructions"), ("gsm8k", "word_problems"), ("mbpp", "functions")],
)
def test_generated_questions_are_those_of_their_seed(kind, generator):
    def generated_by(seed):
        settings = {"generator": generator, "count": 4, "seed": seed}
        return prepare_questions(benchmark(kind, records=None, generated=settings), None)

    pd.testing.assert_frame_equal(generated_by(1), generated_by(1))
    assert len(generated_by(1)) == 4
    assert not set(generated_by(1)["prompt"]) & set(generated_by(2)["prompt"])


REAL = {"gsm8k": 1319, "math": 500, "mbpp": 500}


@pytest.mark.parametrize(("kind", "count"), REAL.items())
def test_real_records_become_questions(kind, count):
    if "BENCHMARK_DATA" not in os.environ:
        pytest.skip("BENCHMARK_DATA is not set; let it name the folder with gsm8k/test.jsonl")
    path = Path(os.environ["BENCHMARK_DATA"], kind, "test.jsonl")
    questions = prepare_questions(benchmark(kind), path)
    assert len(questions) == count
    assert not questions.isna().any(axis=None)
    assert questions["prompt"].is_unique
