import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.errors import DataError
from mergegrid.study.grading.answers.number_forms import exact
from mergegrid.study.grading.answers.numbers import grade

# Gold, output, robust verdict, what the paper's rule reads.
CASES = [
    ("42", "The answer is: 42", True, "42"),
    ("42", "The answer is 42.", True, None),
    ("42", "#### 42", True, None),
    ("42", r"So we get $\boxed{42}$.", True, None),
    ("42", r"First \boxed{7}, then \boxed 42$.", True, None),
    ("42", "THE ANSWER IS:\n\n**42**", True, None),
    ("42", "The answer is: 41. No, the answer is: 42", True, "41"),
    ("42", "42", True, None),
    ("42", "They have 42", False, None),
    ("1234567", "The answer is: 1,234,567", True, "1234"),
    ("1000.5", "The answer is: $1,000.50", True, "1000"),
    ("1234", "The answer is: 1 234 km", True, "1"),
    ("10000", r"The answer is: $10,\!000$", True, "10"),
    ("6", "The answer is: 2 x 3 = 6", True, "2"),
    ("12", "The answer is: $12,000 / 1,000 = $12", True, "12000"),
    ("8", "The answer is: 5 apples + 3 apples = 8 apples", True, "5"),
    ("20", "The answer is: (2+3) x 4 = 20", True, "2"),
    ("18", "The answer is: 6*3 = 9*2 = 18", True, "6"),
    ("10", "The answer is: 20% of 50 = 10", True, "20"),
    ("18", "The answer is: 18, since 3 x 6 = 18", True, "18"),
    ("2", "The answer is: 2 x 3", False, "2"),
    ("12", "The answer is: 12.4", False, "12"),
    ("2", "The answer is: 5/2", False, "2"),
    ("0", "The answer is: .4", False, "0"),
    ("3", "The answer is: 3 1/2", False, "3"),
    ("3", "The answer is: 3½", False, "3"),
    ("3.5", r"The answer is: 3\frac{1}{2}", True, "3"),
    ("0.75", r"The answer is: $\frac34$", True, "34"),
    ("-5", "The answer is: \u22125", True, "5"),
    ("-5", "The answer is: -$5", True, "5"),
    ("5", "The answer is: -5", False, "-5"),
    ("3", "The answer is: 3:45", False, "3"),
    ("10", "The answer is: 10 apples and 3 pears", False, "10"),
    ("5", "The answer is: 5 or 6", False, "5"),
    ("5", "The answer is: 5-10", False, "5"),
    ("5", "The answer is: x = 5, y = 6", False, "5"),
    ("5", "The answer is: 5.00", True, "5"),
    ("18", "The answer is: 18 dollars per day", True, "18"),
    ("18", "The answer is: 18cm.", True, "18"),
    ("18", r"The answer is: \$18", True, "18"),
    ("50", "The answer is: 50%", True, "50"),
    ("1450000", "The answer is: 1.45 million", True, "1"),
    ("1", "The answer is: 1,23", False, "123"),
    ("12", "The answer is: B12", False, "12"),
    ("5", "The answer is: 5/0", False, "5"),
    ("5", "The answer is unknown", False, None),
    ("5", "", False, None),
]
whole = st.integers(-(10**12), 10**12)
cues = st.sampled_from(
    ["The answer is: {}", "the answer is {}.", "#### {}", r"\boxed{{{}}}", "{}", "Answer is ${}$."]
)


@pytest.mark.parametrize(("gold", "output", "correct", "paper"), CASES)
def test_tricky_answers_are_read_as_a_table_says(gold, output, correct, paper):
    result = grade(gold, output)
    assert result.correct is correct
    assert result.paper_extracted == paper
    assert result.paper_correct is (paper is not None and float(paper) == float(gold))


def test_what_was_read_is_kept_as_it_was_written():
    assert grade("1", "The answer is: about $1,234.50 a day").extracted == "$1,234.50"
    assert grade("1", "The answer is: 5 or 6").extracted is None


@given(
    number=whole,
    cue=cues,
    commas=st.booleans(),
    dollar=st.booleans(),
    unit=st.sampled_from(["", " dollars", "%", " cm"]),
)
def test_an_integer_is_found_however_it_is_written(number, cue, commas, dollar, unit):
    text = f"{abs(number):,}" if commas else str(abs(number))
    text = ("-" if number < 0 else "") + ("$" if dollar else "") + text
    result = grade(
        f"Some steps.\n#### {number:,}", cue.format(text + (unit if cue != "{}" else ""))
    )
    assert result.correct


@given(number=st.decimals(-(10**6), 10**6, places=3), cue=cues)
def test_decimals_are_found(number, cue):
    assert grade(str(number), cue.format(f"{number:,}")).correct


@given(gold=whole, stated=whole, cue=cues, decimals=st.integers(0, 6))
def test_another_number_is_never_right(gold, stated, cue, decimals):
    near = Decimal(gold) + Decimal(10) ** -decimals
    assert grade(str(gold), cue.format(f"{stated:,}")).correct is (gold == stated)
    assert not grade(str(gold), cue.format(near)).correct


@given(output=st.text() | st.text("0123456789,./-+ =x$%\\{}#:"))
def test_any_text_is_graded(output):
    for cue in ("{}", "The answer is: {}"):
        grade("5", cue.format(output))


def test_a_model_that_repeats_a_digit_for_ever_is_wrong():
    assert grade("1", "The answer is: " + "1" * 100_000).extracted is None


def test_numbers_of_a_whole_text_are_exact():
    assert exact("0.1") * 3 == exact("3/10")
    assert exact(r"-\frac{1}{3}") * 3 == -1
    assert exact("5 apples") is None


def test_a_reference_without_a_number_is_refused():
    with pytest.raises(DataError, match=r"'many'.*after '####'"):
        grade("Some steps.\n#### many", "The answer is: 5")


def test_the_reference_solutions_of_gsm8k_are_right():
    folder = os.environ.get("BENCHMARK_DATA")
    if folder is None:
        pytest.skip("BENCHMARK_DATA does not name a folder with gsm8k/test.jsonl")
    lines = (Path(folder) / "gsm8k" / "test.jsonl").read_text().splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    numbers = [answer.rpartition("####")[2].strip() for answer in answers]
    assert sum(grade(answer, answer).correct for answer in answers) == 1319
    results = [grade(number, f"The answer is: {number}.") for number in numbers]
    assert sum(result.correct for result in results) == 1319
    # The paper's rule reads no number with two thousands separators: 1,450,000.
    assert sum(result.paper_correct for result in results) == 1318
    following = numbers[1:] + numbers[:1]
    for number, other in zip(numbers, following, strict=True):
        same = float(number.replace(",", "")) == float(other.replace(",", ""))
        assert grade(number, f"The answer is: {other}.").correct is same
