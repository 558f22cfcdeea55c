"""The grader of answers that a judge compares with a reference: AlpacaEval."""

from collections.abc import Sequence
from statistics import fmean

import pandas as pd

from mergegrid.study.grading.graders.grader import Context, Grades, Samples
from mergegrid.study.grading.judges.alpaca import judge_outputs
from mergegrid.study.tasks.benchmarks.question import Question


def grade_preferences(
    context: Context, name: str, questions: Sequence[Question], samples: Samples
) -> Grades:
    """Grade answers to AlpacaEval: how often the judge prefers them to the reference.

    Only the first sample of each question is judged.
    """
    settings = context.request.benchmark.judge
    assert settings is not None, "the schema requires a judge for alpaca_eval"
    outputs = [answers[0] for answers in samples]
    examples = [
        {
            "instruction": question.instruction,
            "output": output,
            "reference": question.reference["output"],
            "dataset": question.reference["dataset"],
        }
        for question, output in zip(questions, outputs, strict=True)
    ]
    result = judge_outputs(examples, name, settings, context.folder)
    records = pd.DataFrame(
        {
            "extracted": outputs,
            "verdict": [_verdict(preference) for preference in result.preferences],
            "preference": result.preferences,
        }
    )
    summaries = {"output_characters": (fmean(map(len, outputs)), float("nan"))}
    if result.length_controlled is not None:
        summaries["length_controlled_win_rate"] = result.length_controlled
    return Grades(records, pd.DataFrame({"win_rate": result.preferences}), summaries)


def _verdict(preference: float) -> str:
    if preference == 0.5:
        return "draw"
    return "win" if preference > 0.5 else "loss"
