"""Answers that readers get wrong: a table, and random sentences with a known reading."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.scoring.answers import latex, numbers

JUDGES = {"gsm8k": numbers.judge, "math": latex.judge}
TABLE = [
    json.loads(line)
    for line in Path(__file__).with_name("answers.jsonl").read_text("utf-8").splitlines()
]


def verdict(task, gold, text):
    judgement = JUDGES[task](gold, text)
    if judgement.extracted is None:
        return "unparsed"
    return "right" if judgement.correct else "wrong"


@pytest.mark.parametrize("case", TABLE, ids=lambda case: f"{case['task']}-{case['text'][:60]}")
def test_answers_are_read_as_the_table_says(case):
    assert verdict(case["task"], case["gold"], case["text"]) == case["expected"]
