import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergegrid.study.grading.answers.equality import LONGEST
from mergegrid.study.grading.answers.latex import boxed, grade

# Gold, answer, robust verdict, the paper's verdict.
CASES = [
    (r"\frac{1}{2}", "1/2", True, True),
    ("0.5", "1/2", True, True),
    (r"\frac{3}{4}", r"\dfrac34", True, True),
    (r"\frac14", "0.25", True, False),
    (r"-\frac{1}{2}", "-1/2", True, False),
    (r"\frac{3}{2}", r"1\frac{1}{2}", True, False),
    ("1234", "1,234", True, False),
    (r"10,\!000", "10000", True, False),
    (r"\$32,\!348", r"\$32,348", True, True),
    ("-5", "\u22125", True, False),
    ("3", "3.0", True, False),
    ("4", "2^2", True, False),
    (r"2\sqrt{3}", r"\sqrt{12}", True, False),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True, False),
    (r"\frac{\pi}{2}", r"\pi/2", True, False),
    (r"\frac{x}{2}", "0.5x", True, False),
    ("2x+3", "3+2x", True, False),
    ("x^2+2x+1", "(x+1)^2", True, False),
    ("6-5i", "-5i+6", True, False),
    ("x<5", "5>x", True, False),
    ("(1,2)", "(1, 2)", True, True),
    ("-2,1", "1, -2", True, False),
    ("3, 5, 7", "3, 5, and 7", True, False),
    (r"(-\infty,2)\cup(3,\infty)", "(-∞,2) ∪ (3,∞)", True, False),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True, True),
    (r"\begin{pmatrix}1/3\\2\end{pmatrix}", r"\begin{bmatrix}\frac13\\2\end{bmatrix}", True, False),
    ("x=5", "5", True, True),
    ("y = 2x + 3", "2x+3", True, True),
    (r"x \in [-2,7]", "[-2,7]", True, False),
    ("5", r"5\text{ cm}", True, True),
    ("5", "5 cm", True, False),
    (r"864 \mbox{ inches}^2", "864 square inches", True, False),
    (r"90^\circ", "90", True, True),
    ("50", "50%", True, False),
    ("50", r"50\%", True, True),
    ("0.5", r"50\%", True, False),
    ("11_2", "11_{2}", True, False),
    (r"\text{Evelyn}", "Evelyn", True, False),
    (r"\text{even}", "Even", True, False),
    (r"\text{(A)}", "A", True, False),
    ("6", "6 or 7", False, False),
    ("6", "6,7", False, False),
    ("12", "1,2", False, False),
    ("45", "4 5", False, True),
    ("(1,2)", "(2,1)", False, False),
    ("(1,2)", "[1,2]", False, False),
    ("(1,2)", "2,1", False, False),
    ("x=5", "y=5", False, True),
    ("5", "5x", False, False),
    ("5", "-5", False, False),
    ("3", "3xy", False, False),
    ("3xy", "3 yx", True, False),
    ("3", r"\pm 3", False, False),
    ("5", "5 is the answer 5", False, False),
    (r"\frac13", "0.333333333333333333", False, False),
    (r"\frac{\pi}{2}", "1.57079632679", False, False),
    ("50\\%", "0.5%", False, False),
    ("11_2", "11_3", False, False),
    (r"\text{(A)}", "(B)", False, False),
    (r"\text{even}", "odd", False, False),
    ("1", "1/0", False, False),
    ("1", r"\frac{1", False, False),
]


@pytest.mark.parametrize(("gold", "answer", "correct", "paper"), CASES)
def test_tricky_answers_are_graded_as_a_table_says(gold, answer, correct, paper):
    result = grade(gold, f"Some steps.\nThe answer is: {answer}.")
    assert (result.correct, result.paper_correct) == (correct, paper)
    for text in (
        rf"So we get $\boxed{{{answer}}}$.",
        f"The final answer is ${answer}$. I hope so.",
    ):
        result = grade(gold, text)
        assert result.correct is correct
        assert result.paper_extracted is None


@pytest.mark.parametrize(
    ("output", "extracted"),
    [
        ("The answer is $5$ because it is odd.", "5"),
        ("The answer is: there are $5$ ways.", "5"),
        ("The answer is:\n\\[\n\\frac{1}{2}\n\\]", r"\frac{1}{2}"),
        ("The answer is: 2.5. Then we stop.", "2.5"),
        ("#### 5\nmore", "5"),
        (r"\boxed{1} and then \boxed{2}. The answer is: 3", "3"),
        (r"\boxed{2}, and $17 \equiv 2$, so our answer is correct, as $2 < 3$.", "2"),
        (r"The answer is: 3 and \boxed{2", r"3 and \boxed{2"),
        ("The answer is $5$ or $6$.", "5 or 6"),
        ("It is 5.", None),
        ("The answer is: ", None),
    ],
)
def test_the_answer_is_the_best_segment(output, extracted):
    assert grade("0", output).extracted == extracted


@pytest.mark.parametrize(
    ("output", "extracted"),
    [
        ("The answer is: 5.\nThe answer is: 6.\nmore", "6"),
        ("The answer is: $5$", "$5$"),
        ("The answer is: 2.5 or so", "2.5 or so"),
        ("The answer is 5", None),
        ("The answer is: .", None),
    ],
)
def test_the_paper_reads_up_to_a_full_stop_at_the_end_of_a_line(output, extracted):
    assert grade("0", output).paper_extracted == extracted


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{1}, \fbox{2}", "2"),
        (r"$\boxed 5$.", "5"),
        (r"so \boxed 12.", "12"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1} \boxed{2", None),
        (r"\boxed{}", None),
        (r"\boxedtext{5}", None),
        ("5", None),
    ],
)
def test_the_content_of_the_last_box(text, content):
    assert boxed(text) == content


@given(number=st.integers(-(10**9), 10**9), other=st.integers(-(10**9), 10**9))
def test_integers_are_right_exactly_when_they_are_equal(number, other):
    assert grade(str(number), rf"\boxed{{{other:,}}}").correct is (number == other)
    assert grade(f"{number}", f"The answer is ${number:,}$.").correct


@settings(max_examples=50, deadline=None)
@given(
    top=st.integers(-30, 30),
    bottom=st.integers(1, 30),
    other=st.integers(-30, 30),
    factor=st.integers(1, 9),
)
def test_fractions_are_right_exactly_when_they_are_equal(top, bottom, other, factor):
    gold = rf"\frac{{{top}}}{{{bottom}}}"
    answer = rf"\boxed{{\dfrac{{{other * factor}}}{{{bottom * factor}}}}}"
    assert grade(gold, answer).correct is (top == other)
    assert grade(gold + r"\pi", answer.replace("}}", r"}\pi}")).correct is (top == other)


@settings(max_examples=50, deadline=None)
@given(output=st.text(r"\{}[]()^_$,.=+-!|&%1x ", max_size=30) | st.text(max_size=30))
def test_any_text_is_graded(output):
    for cue in (r"\boxed{{{}}}", "The answer is: {}"):
        grade("x+2", cue.format(output))


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^9}",
        "9^9^9",
        r"\frac{1}{2^{9999999}}",
        r"9^{9\cdot 9\cdot 9\cdot 9\cdot 9\cdot 9\cdot 9\cdot 9\cdot 9}",
        r"\binom{1000000}{500000}",
        "(((2^{99})^{99})^{99})^{99}",
        "9!!!",
        r"\int_0^1 e^{x^2}\sin x dx",
        "(x+y+z+w)^{99}",
        "1" * 10_000,
        "(" * 3000,
    ],
)
def test_what_never_ends_is_wrong_and_ends(answer):
    start = time.process_time()
    assert not grade("x+2", rf"\boxed{{{answer}}}").correct
    assert time.process_time() - start < 30


def test_a_long_answer_is_compared_only_as_it_is_written():
    ones = "+".join("1" * LONGEST)
    assert grade("x+" + ones, rf"\boxed{{x + {ones}}}").correct
    assert not grade("x+" + ones, rf"\boxed{{{ones} + x}}").correct


def test_threads_grade_as_one_does():
    cases = [case for case in CASES if not case[0].startswith("\\begin")][::2]
    expected = [case[2] for case in cases]
    with ThreadPoolExecutor(4) as pool:
        graded = pool.map(lambda case: grade(case[0], rf"\boxed{{{case[1]}}}").correct, cases)
        assert list(graded) == expected


def test_the_reference_solutions_of_math_are_right():
    folder = os.environ.get("BENCHMARK_DATA")
    if folder is None:
        pytest.skip("BENCHMARK_DATA does not name a folder with math/test.jsonl")
    lines = (Path(folder) / "math" / "test.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert all(boxed(record["solution"]) == record["answer"] for record in records)
    assert sum(grade(r["answer"], r["solution"]).correct for r in records) == 500
    results = [grade(r["answer"], f"The answer is: {r['answer']}.") for r in records]
    assert sum(result.correct for result in results) == 500
    assert sum(result.paper_correct for result in results) == 500
