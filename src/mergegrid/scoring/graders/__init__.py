"""Graders by kind of benchmark; a new one is a function and a line here."""

from mergegrid.config.benchmarks import BenchmarkKind
from mergegrid.scoring.graders.answered import grade_formulas, grade_numbers, grade_texts
from mergegrid.scoring.graders.grader import Grader
from mergegrid.scoring.graders.judged import grade_preferences
from mergegrid.scoring.graders.programs import grade_humaneval, grade_mbpp

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
