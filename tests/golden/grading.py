"""Golden numbers of grading answers."""

import importlib.util
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from golden import data
from golden.answers import FORMULAS, PROGRAMS, SENTENCES
from golden.recorded import ARITHMETIC, Numbers
from mergegrid.methods.average import Average
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.dare import Dare
from mergegrid.study.grading.benchmark import score_benchmark
from mergegrid.study.grading.graders import GRADERS
from mergegrid.study.grading.graders.grader import Context, VerdictCache
from mergegrid.study.grading.programs.sandbox import SandboxError, open_sandbox
from mergegrid.study.runtime.journal import Journal
from mergegrid.study.schema.benchmarks import BenchmarkKind
from mergegrid.study.schema.decoder_jobs import ScoreRequest
from mergegrid.study.schema.judge import Judge
from mergegrid.study.tasks.benchmarks import READERS
from mergegrid.study.tasks.benchmarks.question import Question
from mergegrid.study.tasks.questions import prepare_questions

_RECIPE = Recipe(
    family="llama", experts=("math", "code"), sparsifier=Dare(rate=0.9, seed=1), method=Average()
)


def grade_gsm8k(folder: Path) -> Any:
    """Numbers in sentences, with signs, units, commas and calculations."""
    records = [{"question": "?", "answer": f"#### {gold}"} for gold in SENTENCES]
    return _graded(folder, "gsm8k", records, list(SENTENCES.values()))


def grade_math(folder: Path) -> Any:
    """Formulas, equations, intervals, sets, units and repeating decimals."""
    records = [{"problem": "?", "answer": gold} for gold in FORMULAS]
    return _graded(folder, "math", records, list(FORMULAS.values()))


def grade_humaneval(folder: Path) -> Any:
    """Whole functions and bodies, in text, cut off and wrong ones."""
    bodies = ["    return 2 * x\n", "\n    return 2 * x\n\ndef next_one():\n    pass\n"]
    return _graded(folder, "humaneval", data.HUMANEVAL[:1], [[*PROGRAMS, *bodies]], pass_at=[1, 3])


def grade_mbpp(folder: Path) -> Any:
    """The same, and a record with set-up code."""
    leaf = ["def value(leaf):\n    return leaf.value", "def value(leaf):\n    return 3", "pass"]
    answers = [PROGRAMS, leaf]
    return _graded(folder, "mbpp", data.MBPP, answers, pass_at=[1, 3])


def grade_instructions(folder: Path) -> Any:
    """Texts that are equal but for white space around them; means over questions of two splits."""
    answers = [[" one two\nthree\n", "one two three", ""], ["a b", " a b ", "A b"]]
    graded = _graded(folder, "instructions", data.WORDS, answers)
    made = {"generator": "instructions", "count": 12, "seed": 1}
    asked = data.benchmark("instructions", records=None, generated=made)
    questions = prepare_questions(asked, None)
    golds = [json.loads(each)["output"] for each in questions["reference"]]
    request = ScoreRequest(
        name="words",
        benchmark=asked,
        owner="expert",
        recipes=[_RECIPE, _RECIPE.model_copy(update={"training_seed": 1})],
        validation_fraction=0.4,
        selection="validation",
        unsafe_execution=False,
    )
    frames = [
        _answers(questions["id"], [each if (row + k) % 3 else "" for row, each in enumerate(golds)])
        for k in (0, 1)
    ]
    scores, records = score_benchmark(request, questions, frames, folder)
    return {
        "graded": graded,
        "scores": scores.drop(columns=["libraries", "inputs_digest"]),
        "splits": records["split"].str.cat(records["value"].astype(str), " ").tolist(),
    }


def _answers(ids: Iterable[str], outputs: Sequence[str]) -> pd.DataFrame:
    """Answers to questions as a backend writes them."""
    engine = {"backend": "transformers", "dtype": "float32", "device": "cpu"}
    return pd.DataFrame(
        {
            "benchmark": "words",
            "id": list(ids),
            "sample": 0,
            "prompt_digest": "p",
            "output": outputs,
            "finish": "stop",
            "tokens": 3,
            "engine": json.dumps(engine),
            "libraries": "{}",
        }
    )


def grade_alpaca_eval(folder: Path) -> Any:
    """A judge that prefers the longer of two outputs, and says how surely."""
    records = [*data.TALK, {**data.TALK[0], "instruction": "Name a city.", "output": "Bonn"}]
    answers = [["A ripe pear."], ["Oak"], ["Bonn"]]
    server = _stub().Judge()
    try:
        judge = Judge(model="m", style="choice", base_url=server.url, api_key_env="none")
        return _graded(folder, "alpaca_eval", records, answers, judge=judge)
    finally:
        server.close()


def _graded(
    folder: Path,
    kind: BenchmarkKind,
    records: Sequence[Any],
    answers: Sequence[Sequence[str]],
    **changes: Any,
) -> dict[str, Any]:
    """What a grader makes of the answers to each record."""
    if kind in ("humaneval", "mbpp"):
        _need_sandbox()
    samples = max(map(len, answers))
    if "pass_at" in changes:
        changes["sampling"] = {"samples": samples, "temperature": 1}
    request = ScoreRequest(
        name="bench",
        benchmark=data.benchmark(kind, **changes),
        owner="expert",
        recipes=[],
        validation_fraction=0,
        selection="none",
        unsafe_execution=False,
    )
    asked = [
        Question(each.id, each.instruction, json.loads(json.dumps(each.reference)))
        for each in READERS[kind](records)
    ]
    context = Context(
        request, folder, VerdictCache(Journal(folder / "verdicts.jsonl"), {}), workers=2
    )
    grades = GRADERS[kind](context, "a model", asked, answers)
    graded = iter(grades.records.drop(columns="detail", errors="ignore").to_dict("records"))
    return {
        "answers": {
            question.id: {text: next(graded) for text in each}
            for question, each in zip(asked, answers, strict=True)
        },
        "values": grades.values,
        "summaries": grades.summaries,
    }


def _need_sandbox() -> None:
    try:
        open_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


def _stub() -> Any:
    path = Path(__file__).parents[1] / "unit" / "study" / "grading" / "judges" / "stub.py"
    spec = importlib.util.spec_from_file_location("stub_judge", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NUMBERS = {
    "grade_gsm8k": Numbers(grade_gsm8k, ARITHMETIC),
    "grade_math": Numbers(grade_math, ARITHMETIC),
    "grade_humaneval": Numbers(grade_humaneval, ARITHMETIC),
    "grade_mbpp": Numbers(grade_mbpp, ARITHMETIC),
    "grade_alpaca_eval": Numbers(grade_alpaca_eval, ARITHMETIC),
    "grade_instructions": Numbers(grade_instructions, ARITHMETIC),
}
