import pandas as pd
import pytest

from mergegrid.errors import DataError
from mergegrid.study.schema.decoder_jobs import QuestionSplit
from mergegrid.study.tasks.question_splits import in_split, split_of


def test_questions_are_those_of_the_split_that_scores_have():
    questions = pd.DataFrame({"id": [str(number) for number in range(100)]})
    parts = [
        in_split(questions, QuestionSplit(benchmark="gsm8k", split=split, validation_fraction=0.2))
        for split in (None, "validation", "test")
    ]
    assert parts[0].equals(questions)
    assert sorted([*parts[1].index, *parts[2].index]) == list(range(100))
    expected = [split_of("gsm8k", name, 0.2) == "validation" for name in questions["id"]]
    assert parts[1].equals(questions[expected])
    assert 5 < len(parts[1]) < 40


def test_a_split_without_questions_is_an_error():
    chosen = QuestionSplit(benchmark="gsm8k", split="validation", validation_fraction=1e-9)
    with pytest.raises(DataError, match=r"none of the 1 questions of gsm8k is in the validation"):
        in_split(pd.DataFrame({"id": ["0"]}), chosen)
