"""Experts and benchmarks as they are written on the command line of `mergegrid init`."""

import json
from pathlib import Path

import pytest
import yaml

from mergegrid.errors import MergegridError
from mergegrid.study.new_study.options import benchmark_options, expert_options
from mergegrid.study.new_study.ready_benchmarks import COLUMNS, READY, kind_of_columns

MODERN = Path(__file__).parents[4] / "config" / "modern.yaml"


def by_name(texts, experts):
    return {one.name: one for one in benchmark_options(texts, experts)}


def questions(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_ready_benchmarks_are_those_of_the_shipped_study():
    shipped = yaml.safe_load(MODERN.read_text())["decoders"]["benchmarks"]
    assert {name: (one.kind, dict(one.records)) for name, one in READY.items()} == {
        name: (one["kind"], one.get("records", {})) for name, one in shipped.items()
    }
    assert {name for name, one in READY.items() if one.judged} == {
        name for name, one in shipped.items() if "judge" in one
    }


def test_benchmarks_go_to_the_experts_whose_names_tell_of_the_ability():
    found = by_name(["gsm8k", "humaneval", "mbpp"], ["wizard-math", "coder"])
    assert found["gsm8k"].experts == ("wizard-math",)
    assert found["humaneval"].experts == found["mbpp"].experts == ("coder",)
    assert found["gsm8k"].guessed


def test_where_no_name_tells_all_experts_are_measured():
    assert by_name(["gsm8k"], ["a", "b"])["gsm8k"].experts == ("a", "b")


def test_an_expert_in_front_decides():
    found = by_name(["b:gsm8k", "a:humaneval"], ["a", "b"])
    assert found["gsm8k"].experts == ("b",)
    assert not found["gsm8k"].guessed


def test_own_questions_are_read_and_recognized_by_their_columns(tmp_path):
    path = questions(tmp_path / "q.jsonl", {"question": "1 + 1?", "answer": 2})
    one = by_name([f"mine={path}"], ["a"])["mine"]
    assert (one.kind, one.questions, one.path) == ("gsm8k", 1, path)
    path = questions(tmp_path / "r.jsonl", {"instruction": "Say a.", "output": "a"})
    assert by_name([f"a:mine={path}"], ["a"])["mine"].kind == "instructions"


def test_own_questions_under_a_known_name_are_of_its_kind(tmp_path):
    path = questions(tmp_path / "q.jsonl", {"problem": "1 + 1?", "answer": "2"})
    assert by_name([f"math={path}"], ["a"])["math"].kind == "math"


def test_kinds_are_told_apart_by_what_their_readers_need():
    for kind, needed in COLUMNS.items():
        assert kind_of_columns({names[0] for names in needed}) == kind
    assert kind_of_columns({"text", "label"}) is None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["gsm9k"], "unknown benchmark gsm9k; use one of gsm8k, math"),
        (["c:gsm8k"], "there is no expert c; use one of math, code"),
        (["gsm8k", "gsm8k"], "gsm8k is given twice"),
        (["mine=nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["a b"], "write NAME, EXPERT:NAME or NAME=FILE.jsonl"),
        (["gsm8k"], "expert code has no benchmark"),
        ([], "no benchmarks"),
    ],
)
def test_wrong_benchmarks_are_one_line(texts, message):
    with pytest.raises(MergegridError, match=message) as error:
        benchmark_options(texts, ["math", "code"])
    assert "\n" not in str(error.value)


def test_a_file_without_questions_is_refused(tmp_path):
    path = questions(tmp_path / "mine.jsonl")
    with pytest.raises(MergegridError, match=r"mine.jsonl has no questions; add some"):
        benchmark_options([f"mine={path}"], ["math"])


def test_records_of_no_kind_name_the_columns_of_all(tmp_path):
    path = questions(tmp_path / "q.jsonl", {"text": "x", "label": "y"})
    with pytest.raises(MergegridError, match=r"label, text of .* gsm8k: question, answer"):
        benchmark_options([f"mine={path}"], ["a"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["org/model"], "write NAME=MODEL"),
        (["=org/model"], "write NAME=MODEL"),
        (["base=org/model"], "invalid expert name 'base'"),
        (["a b=org/model"], "invalid expert name"),
        (["a=x/y", "A=x/z"], "given twice"),
        ([], "no experts"),
    ],
)
def test_wrong_experts_are_one_line(texts, message):
    with pytest.raises(MergegridError, match=message):
        expert_options(texts)


def test_experts_are_models_by_name():
    assert expert_options(["math=org/m@main", "code=./c=d"]) == {
        "math": "org/m@main",
        "code": "./c=d",
    }
