"""Instructions to fine-tune on: read or generated, deduplicated and split."""

import json

import pytest

from mergegrid.errors import DataError
from mergegrid.study.finetuning.instruction_examples import prepare_instructions
from mergegrid.study.schema.instructions import Instructions


def records(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": f"path:{path}"}


def instructions(**changes):
    return Instructions.model_validate(changes)


@pytest.fixture
def many(tmp_path):
    rows = [{"instruction": f"question {n}", "output": f"answer {n}"} for n in range(40)]
    return tmp_path / "many.jsonl", records(tmp_path / "many.jsonl", rows)


def test_a_split_is_a_partition_of_the_records(many):
    path, table = many
    examples = prepare_instructions(instructions(records=table), path)
    assert list(examples) == ["split", "instruction", "output"]
    assert examples["split"].value_counts().to_dict() == {"train": 36, "validation": 4}
    assert set(examples["instruction"]) == {f"question {number}" for number in range(40)}
    assert (examples["output"] == examples["instruction"].str.replace("question", "answer")).all()


def test_a_split_depends_on_its_seed_alone(many):
    path, table = many
    one, again = (prepare_instructions(instructions(records=table), path) for _ in range(2))
    other = prepare_instructions(instructions(records=table, split_seed=1), path)
    assert one.equals(again)
    assert set(one["instruction"][-4:]) != set(other["instruction"][-4:])


def test_of_many_records_as_many_as_asked_are_taken(many):
    path, table = many
    examples = prepare_instructions(
        instructions(records=table, count=10, validation_fraction=0.25), path
    )
    assert examples["split"].tolist() == ["train"] * 7 + ["validation"] * 3


def test_a_repeated_question_is_kept_once_and_an_empty_one_not_at_all(tmp_path):
    rows = [
        {"instruction": "again", "output": "first"},
        {"instruction": " again ", "output": "second"},
        {"instruction": "", "output": "nothing asked"},
        {"instruction": "nothing answered", "output": None},
        {"instruction": "other", "output": "third"},
    ]
    table = records(tmp_path / "table.jsonl", rows)
    examples = prepare_instructions(instructions(records=table), tmp_path / "table.jsonl")
    assert sorted(examples["output"]) == ["first", "third"]
    assert sorted(examples["split"]) == ["train", "validation"]


def test_more_of_a_question_stands_below_it(tmp_path):
    rows = [
        {"question": "Add these:", "more": "1 2", "say": "3"},
        {"question": "Say hello.", "more": "", "say": "hello"},
    ]
    table = records(tmp_path / "table.jsonl", rows)
    examples = prepare_instructions(
        instructions(records=table, instruction="question", input="more", output="say"),
        tmp_path / "table.jsonl",
    )
    assert sorted(examples["instruction"]) == ["Add these:\n1 2", "Say hello."]


def test_a_missing_column_is_named(many):
    path, table = many
    with pytest.raises(DataError, match="no column 'response'; choose one of instruction, output"):
        prepare_instructions(instructions(records=table, output="response"), path)


def test_one_record_is_too_few(tmp_path):
    table = records(tmp_path / "table.jsonl", [{"instruction": "a", "output": "b"}])
    with pytest.raises(DataError, match="only 1 instructions are left, too few"):
        prepare_instructions(instructions(records=table), tmp_path / "table.jsonl")


@pytest.mark.parametrize("generator", ["instructions", "word_problems", "functions"])
def test_instructions_can_be_made_up(generator):
    made = {"generator": generator, "count": 20, "seed": 3}
    examples = prepare_instructions(instructions(generated=made), None)
    assert examples["split"].value_counts().to_dict() == {"train": 18, "validation": 2}
