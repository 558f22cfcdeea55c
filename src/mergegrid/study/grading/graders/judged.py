"""The grader of answers that a judge compares with a reference: AlpacaEval."""

from collections.abc import Sequence

import pandas as pd

from mergegrid.study.grading.graders.grader import Answers, Context, Grades, Question
from mergegrid.study.grading.judges.alpaca import judge


def grade_preferences(
    context: Context, name: str, questions: Sequence[Question], answers: Answers
) -> Grades:
    """AlpacaEval: how often the judge prefers the answer to the reference's; the first sample."""
    settings = context.request.benchmark.judge
    assert settings is not None, "the configuration gives alpaca_eval a judge"
    outputs = [each[0] for each in answers]
    found = judge(
        [
            {
                "instruction": question.instruction,
                "output": output,
                "reference": question.reference["output"],
                "dataset": question.reference["dataset"],
            }
            for question, output in zip(questions, outputs, strict=True)
        ],
        name,
        settings,
        context.folder,
    )
    records = pd.DataFrame(
        {"extracted": outputs, "verdict": [_verdict(each) for each in found.preferences]}
    )
    records["preference"] = found.preferences
    summaries = {"output_characters": (found.average_length, float("nan"))}
    if found.length_controlled is not None:
        summaries["length_controlled_win_rate"] = (
            found.length_controlled,
            float("nan") if found.lc_stderr is None else found.lc_stderr,
        )
    return Grades(records, pd.DataFrame({"win_rate": found.preferences}), summaries)


def _verdict(preference: float) -> str:
    if preference == 0.5:
        return "draw"
    return "win" if preference > 0.5 else "loss"
