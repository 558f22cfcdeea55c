"""Graders by kind of benchmark. To add one, write a function and register it here."""

from mergegrid.study.grading.graders.answered import grade_formulas, grade_numbers, grade_texts
from mergegrid.study.grading.graders.grader import Grader
from mergegrid.study.grading.graders.judged import grade_preferences
from mergegrid.study.grading.graders.programs import grade_humaneval, grade_mbpp
from mergegrid.study.schema.benchmarks import BenchmarkKind

STAGE_VERSIONS = {
    "grade_gsm8k": 2,
    "grade_math": 2,
    "grade_humaneval": 2,
    "grade_mbpp": 2,
    "grade_alpaca_eval": 1,
    "grade_instructions": 1,
}

GRADERS: dict[BenchmarkKind, Grader] = {
    "gsm8k": grade_numbers,
    "math": grade_formulas,
    "humaneval": grade_humaneval,
    "mbpp": grade_mbpp,
    "alpaca_eval": grade_preferences,
    "instructions": grade_texts,
}
