"""Answers that readers get wrong: a table, and random sentences with a known reading."""

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.errors import DataError
from mergegrid.study.grading.answers import latex, numbers
from mergegrid.study.tasks.benchmarks import math

GRADE = {"gsm8k": numbers.grade, "math": latex.grade}
TABLE = [
    json.loads(line)
    for line in Path(__file__).with_name("answers.jsonl").read_text("utf-8").splitlines()
]


def verdict(task, gold, text):
    result = GRADE[task](gold, text)
    if result.extracted is None:
        return "unparsed"
    return "right" if result.correct else "wrong"


@pytest.mark.parametrize("case", TABLE, ids=lambda case: f"{case['task']}-{case['text'][:60]}")
def test_answers_are_read_as_the_table_says(case):
    assert verdict(case["task"], case["gold"], case["text"]) == case["expected"]


whole = st.integers(0, 10**7)
signed = st.integers(-(10**7), 10**7)
nouns = st.sampled_from(["", " eggs", " red apples", " hours", " km", " dollars per day", " ft."])
minus = st.sampled_from(["-", "\u2212", "\u2013", "negative ", "minus "])
phrases = st.sampled_from(
    [
        "The answer is: {}",
        "The answer is {}.",
        "So the final answer is **{}**.",
        "The answer to the question is {}.\n\nQuestion: Tom has 7 eggs. How many are left? "
        "The answer is: 7",
        "<think>The answer is 7.</think>\nThe answer is {}.",
        "\\boxed{{7}} Wait. The answer is {}.",
        "La respuesta es {}",
        "答案是 {}。",
    ]
)


@st.composite
def quantities(draw, numbers_of=signed):
    """A number, and a way to write it that leaves no doubt."""
    number = draw(numbers_of)
    digits = draw(st.sampled_from([str(abs(number)), f"{abs(number):,}", f"{abs(number)}.0"]))
    currency = draw(st.sampled_from(["", "$", "€", "\\$"]))
    sign = draw(minus) if number < 0 else ""
    unit = draw(st.sampled_from(["", "%", "\\%", " cents", " km/h", " square feet", "\\text{ cm}"]))
    return number, sign + currency + digits + ("" if currency else unit)


@st.composite
def calculations(draw):
    """A calculation with its result, right or not, and the result."""
    first, second, result = draw(whole), draw(whole), draw(signed)
    sign = draw(
        st.sampled_from([" + ", " * ", " x ", " × ", " · ", " times ", " plus ", "*", " ÷ "])
    )
    equals = draw(
        st.sampled_from([" = ", "=", " equals ", " is ", " makes ", " gives ", " → ", " ≈ "])
    )
    written = f"-{draw(st.sampled_from(['$', '']))}{-result}" if result < 0 else f"{result:,}"
    left = f"{first}{draw(nouns)}{sign}{draw(st.sampled_from(['', '$']))}{second}{draw(nouns)}"
    return result, f"{left.removesuffix('.')}{equals}{written}{draw(nouns)}"


@given(quantities(), phrases)
def test_a_number_is_read_however_it_is_written(quantity, phrase):
    number, written = quantity
    # A language with a decimal comma leaves 1,234 open.
    expected = {"unparsed"} if "La" in phrase and "," in written else {"right"}
    assert verdict("gsm8k", str(number), phrase.format(written)) in expected | (
        {"right"} if written.count(",") > 1 else set()
    )


@given(calculations(), phrases.filter(lambda phrase: "La" not in phrase))
def test_the_result_of_a_calculation_is_read(calculation, phrase):
    result, written = calculation
    assert verdict("gsm8k", str(result), phrase.format(written)) == "right"


JOINTS = [
    "- ",
    "-",
    " - ",
    "–",
    " – ",
    " — ",
    " or ",
    " to ",
    " and ",
    ", ",
    "; ",
    " x ",
    " * ",
    " plus ",
    " minus ",
    " out of ",
    " eggs for $",
    " (",
    " < ",
    " eggs, not ",
    " eggs and then ",
    " hours ",
    " ± ",
    " times ",
    ": ",
    " ft. x ",
]


@given(
    first=whole,
    second=whole,
    joint=st.sampled_from(JOINTS),
    phrase=phrases.filter(lambda phrase: "La" not in phrase),
)
def test_of_two_numbers_none_is_read_by_chance(first, second, joint, phrase):
    text = phrase.format(f"{first}{joint}{second}")
    read = {
        number
        for number in (first, second)
        if verdict("gsm8k", str(number), text) != "unparsed" and first != second
    }
    # "5 eggs, not 6" says which.
    assert read <= ({first, second} if "not" in joint else set())
    if read:
        assert verdict("gsm8k", str(first), text) == "right"


HARMLESS = st.sampled_from(["", "about ", "a total of ", "exactly ", "Ann pays $", "(", "x = "])
HAZARDS = [
    "half of {}",
    "at least {}",
    "not {}",
    "twice {}",
    "2x = {}",
    "3 times {}",
    "either {}",
    "7 or {}",
    "7 eggs, {}",
    "y + {}",
    "{} dozen",
    "{} or 7",
    "{}x",
    "{}% of 50",
    "{} squared",
    "{} to 9",
    "{} if it rains",
    "{} and 7 pears",
    "{} < 9",
    "{}^2",
    "between {} and",
    "{} below zero",
    "{}:15",
    "the square root of {}",
    "{} - 7",
    "{} minus 7",
    "{} thirds",
    "more than {}",
]


# With 7, "7 eggs, 7" says one number twice.
@given(
    # Powers of ten are read.
    number=whole.filter(lambda number: number not in (7, 10)),
    before=HARMLESS,
    hazard=st.sampled_from(HAZARDS),
    after=nouns,
)
def test_words_that_change_a_number_leave_it_unread(number, before, hazard, after):
    text = f"The answer is: {before}{hazard.format(number)}{after}"
    assert verdict("gsm8k", str(number), text) == "unparsed"


@given(
    before=st.text("0123456789", max_size=3),
    again=st.text("0123456789", min_size=1, max_size=4),
    mark=st.sampled_from([r"\overline{{{}}}", r"\bar{{{}}}", r"\overline {{ {} }}"]),
    integer=st.integers(0, 999),
)
def test_repeating_decimals_are_fractions(before, again, mark, integer):
    number = Fraction(int(f"{integer}{before}{again}") - int(f"{integer}{before}"))
    number /= (10 ** len(again) - 1) * 10 ** len(before)
    written = f"{integer}.{before}{mark.format(again)}"
    gold = rf"\frac{{{number.numerator}}}{{{number.denominator}}}"
    assert verdict("math", gold, rf"\boxed{{{written}}}") == "right"
    assert verdict("math", gold, rf"\boxed{{-{written}}}") == ("wrong" if number else "right")
    assert verdict("gsm8k", str(number), f"The answer is: ${written}$") == "right"


@given(quantities(), st.sampled_from(["\\boxed{{{}}}", "The answer is: {}", "The answer is {}."]))
def test_a_number_in_mathematics_is_read_however_it_is_written(quantity, phrase):
    number, written = quantity
    assert verdict("math", str(number), phrase.format(written)) == "right"
    assert verdict("math", str(number + 1), phrase.format(written)) == "wrong"


small = st.integers(-9, 9)
factors = small.filter(bool)


@given(
    number=signed,
    left=st.sampled_from(
        [
            "2x",
            "x^2",
            "x + y",
            "xy",
            "-x",
            "|x|",
            r"\sqrt{x}",
            r"\frac{x}{3}",
            "x - 1",
            "2(x)",
            "3n",
        ]
    ),
    name=st.sampled_from(["x", "n", "f(3)", r"\theta", "x_1", "AB", r"\text{Area}", "P(A)"]),
    swapped=st.booleans(),
)
def test_only_a_bare_name_is_struck_off(number, left, name, swapped):
    equation, named = (
        f"{number} = {side}" if swapped else f"{side} = {number}" for side in (left, name)
    )
    assert verdict("math", str(number), rf"\boxed{{{equation}}}") == "wrong"
    assert verdict("math", str(number), rf"\boxed{{{named}}}") == "right"


@pytest.mark.slow
@given(a=factors, b=factors, c=small, factor=factors, other=small, moved=st.booleans())
def test_equations_are_equal_up_to_a_factor(a, b, c, factor, other, moved):
    def line(a, b, c):
        return f"{a}x + {b}y = {c}" if not moved else f"{a}x = {c} - ({b}y)"

    gold = f"{a}x + {b}y - {c} = 0".replace("- -", "+ ")
    answer = line(a * factor, b * factor, c * factor + other)
    assert verdict("math", gold, rf"\boxed{{{answer}}}") == ("wrong" if other else "right")


@given(text=st.text(max_size=60) | st.text("0123456789,./-+ =x$%\\{}#:()\n", max_size=60))
def test_any_text_has_a_verdict(text):
    for task in GRADE:
        for phrase in ("{}", "The answer is: {}", "\\boxed{{{}}}", "Ответ: {}"):
            assert verdict(task, "5", phrase.format(text)) in ("right", "wrong", "unparsed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["a ", "1 ", "= ", "(", "1,", "$", "<think>", "\\boxed{", "# ", "\n"]
)
def test_long_texts_are_read_in_time(unit):
    for task in GRADE:
        for phrase in ("{}", "The answer is: {}", "\\boxed{{{}}}", "{} The answer is: 5"):
            verdict(task, "5", phrase.format(unit * 5000))


@pytest.mark.parametrize("word", [r"\text{ cm}", r" \text{ cm}", r"/\text{cm}", r"\mathrm{m}^2 "])
@pytest.mark.parametrize("end", ["", r" \cdot 3", r"\text{", r" \frac{1}{2}"])
def test_answers_that_repeat_themselves_are_read_in_time(word, end):
    start = time.process_time()
    for count in (30, 400):
        verdict("math", "5", rf"\boxed{{5 {word * count}{end}}}")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("gold", ["The answer is 5.", "She makes $5.", "Ann sells 5 eggs"])
def test_a_gold_that_is_a_sentence_is_refused(gold):
    with pytest.raises(DataError, match="sentence"):
        math.read([{"problem": "How many?", "answer": gold}])
    assert math.read([{"problem": "How many?", "answer": "5 eggs"}])
