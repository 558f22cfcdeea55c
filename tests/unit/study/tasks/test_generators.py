"""Generators: questions of different seeds never overlap, and their answers are right."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergegrid.errors import ConfigError
from mergegrid.study.tasks.benchmarks import READERS
from mergegrid.study.tasks.generators import GENERATORS, generate
from mergegrid.study.tasks.generators.numbering import choose

KINDS = {"instructions": "instructions", "word_problems": "gsm8k", "functions": "mbpp"}
GENERATOR_NAMES = pytest.mark.parametrize("generator", GENERATORS)


@GENERATOR_NAMES
def test_no_question_is_asked_twice_under_any_seed(generator):
    instructions = [
        record["instruction"]
        for seed in [*range(6), 42, 1000, 1001, 2000]
        for record in generate(generator, 400, seed)
    ]
    assert len(set(instructions)) == len(instructions) == 4000


@GENERATOR_NAMES
def test_a_seed_gives_the_same_records_and_more_of_them_begin_alike(generator):
    assert generate(generator, 30, 7) == generate(generator, 90, 7)[:30]
    assert generate(generator, 30, 7) != generate(generator, 30, 8)


@GENERATOR_NAMES
def test_a_benchmark_asks_what_was_learnt(generator):
    records = generate(generator, 12, 1)
    questions = READERS[KINDS[generator]](records)
    assert [question.instruction for question in questions] == [
        record["instruction"] for record in records
    ]
    assert len({question.id for question in questions}) == 12


@GENERATOR_NAMES
def test_a_seed_too_high_is_refused(generator):
    with pytest.raises(ConfigError, match=r"no question 0 for seed 999999.*use a lower seed"):
        generate(generator, 1, 999_999)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.integers(0, 5))
def test_every_combination_has_one_number(sizes, permutation):
    pools = [range(size) for size in sizes]
    combinations = set()
    pairs = [(seed, total - seed) for total in range(12) for seed in range(total, -1, -1)]
    for seed, index in pairs:
        try:
            combinations.add(tuple(choose(pools, seed, index, permutation)))
        except ConfigError:
            break
        assert len(combinations) == pairs.index((seed, index)) + 1


def test_programs_pass_their_own_tests_and_a_wrong_one_does_not():
    for record in generate("functions", 120, 0):
        namespace = {}
        exec(record["code"], namespace)
        exec("\n".join(record["test_list"]), namespace)
        name = re.search(r"def (\w+)", record["code"])[1]
        assert name in record["text"]
        with pytest.raises(AssertionError):
            exec("\n".join(record["test_list"]), {name: lambda _: "something else"})


def test_tests_of_a_function_tell_its_neighbours_apart():
    for record in generate("functions", 120, 0):
        for number in set(re.findall(r"(?<!\w)\d+", record["code"])) - {"0"}:
            namespace = {}
            changed = re.sub(rf"(?<!\w){number}(?!\w)", str(int(number) + 1), record["code"])
            exec(changed, namespace)
            with pytest.raises(AssertionError):
                exec("\n".join(record["test_list"]), namespace)


def test_a_function_is_answered_as_a_block_of_its_code():
    for record in generate("functions", 12, 0):
        assert record["output"] == f"```python\n{record['code']}\n```"
        assert all(test in record["instruction"] for test in record["test_list"])


def test_the_steps_of_word_problems_are_right():
    for record in generate("word_problems", 400, 0):
        (answer,) = re.findall(r"The answer is: (\d+)$", record["output"])
        steps = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", record["output"])
        assert steps
        for first, sign, second, result in steps:
            assert eval(f"{first} {sign} {second}") == int(result)
        assert steps[-1][-1] == answer
        assert record["answer"].endswith(f"\n#### {answer}")
        numbers = set(re.findall(r"\d+", record["question"]))
        results = {step[-1] for step in steps}
        assert {step[0] for step in steps} | {step[2] for step in steps} <= numbers | results


ANSWERS = {
    r'Write "(.+)" (\d) times, separated by commas\.': lambda text, n: ", ".join([text] * int(n)),
    r"Write in capital letters: (.+)": lambda words: words.upper(),
    r"Reverse the order of these words: (.+)": lambda words: ", ".join(words.split(", ")[::-1]),
    r"Put each of these words in square brackets: (.+)": lambda words: re.sub(
        r"\w+", r"[\g<0>]", words
    ),
    r"Join these words with hyphens: (.+)": lambda words: words.replace(" ", "-"),
    r"Write these words as a numbered list: (.+)": lambda words: "\n".join(
        f"{number}. {word}" for number, word in enumerate(words.split(", "), start=1)
    ),
}


def test_the_answers_to_instructions_are_right():
    used = set()
    for record in generate("instructions", 120, 0):
        for pattern, answer in ANSWERS.items():
            match = re.fullmatch(pattern, record["instruction"])
            if match:
                used.add(pattern)
                assert record["output"] == answer(*match.groups())
                break
        else:
            raise AssertionError(record["instruction"])
    assert used == set(ANSWERS)


def test_records_in_the_docstrings_are_of_the_right_shape():
    from mergegrid.study.tasks.generators import formatting, functions, word_problems

    for module in (formatting, word_problems, functions):
        documented = set(re.findall(r'"(\w+)":', module.__doc__))
        assert set(module.generate(1, 0)[0]) == documented
