import json

import numpy as np
import pandas as pd
import pytest

from mergegrid.errors import DataError
from mergegrid.study.schema.tasks import Task
from mergegrid.study.tasks.examples import prepare
from mergegrid.study.tasks.table_files import read_table

ROWS = [{"text": f"sentence number {index}", "label": index % 2} for index in range(100)]
SOURCE = {"source": "path:x.jsonl"}


@pytest.fixture
def table(tmp_path):
    """Writes rows as JSON lines and returns the path."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def task(**changes):
    values = {"text": ["text"], "labels": [0, 1], "metric": "accuracy", "train": SOURCE}
    return Task.model_validate(values | changes)


def sizes(examples):
    return examples["split"].value_counts().to_dict()


def test_splits_are_shares_of_the_table_and_share_no_example(table):
    examples = prepare(task(), {"train": table(ROWS)})
    assert sizes(examples) == {"train": 72, "validation": 8, "test": 20}
    assert examples["text_a"].is_unique
    assert set(examples["text_a"]) == {row["text"] for row in ROWS}


def test_the_validation_split_is_the_last_tenth_of_numpys_permutation(table):
    held_out = table(ROWS[:10], "test.jsonl")
    named = task(test=SOURCE, drop_duplicates=False)
    examples = prepare(named, {"train": table(ROWS), "test": held_out})
    order = np.random.RandomState(0).permutation(100)
    texts = [ROWS[index]["text"] for index in order]
    assert examples[examples["split"] == "train"]["text_a"].tolist() == texts[:90]
    assert examples[examples["split"] == "validation"]["text_a"].tolist() == texts[90:]
    assert examples[examples["split"] == "test"]["text_a"].tolist() == [
        r["text"] for r in ROWS[:10]
    ]


def test_examples_are_the_same_every_time(table):
    path = table(ROWS)
    pd.testing.assert_frame_equal(
        prepare(task(), {"train": path}), prepare(task(), {"train": path})
    )


def test_another_split_seed_makes_another_split(table):
    path = table(ROWS)
    one, other = (prepare(task(split_seed=seed), {"train": path}) for seed in (0, 1))
    assert set(one[one["split"] == "test"]["text_a"]) != set(
        other[other["split"] == "test"]["text_a"]
    )


def test_repeated_examples_and_those_of_the_test_split_are_not_learnt_from(table):
    repeated = [*ROWS, {"text": "Sentence  NUMBER 50", "label": 0}, ROWS[3]]
    examples = prepare(
        task(test=SOURCE), {"train": table(repeated), "test": table(ROWS[:10], "test.jsonl")}
    )
    assert sizes(examples) == {"train": 81, "validation": 9, "test": 10}
    learnt = examples[examples["split"] != "test"]["text_a"]
    assert not set(learnt) & {row["text"] for row in ROWS[:10]}


def test_no_example_of_the_test_split_is_chosen_by(table):
    tables = {"train": ROWS[20:], "validation": ROWS[:15], "test": ROWS[10:20]}
    paths = {name: table(rows, f"{name}.jsonl") for name, rows in tables.items()}
    examples = prepare(task(validation=SOURCE, test=SOURCE), paths)
    assert sizes(examples) == {"train": 80, "validation": 10, "test": 10}


def test_sizes_bound_each_split(table):
    limits = {"train": 50, "validation": 3, "test": 7}
    examples = prepare(task(sizes=limits), {"train": table(ROWS)})
    assert sizes(examples) == {"train": 45, "validation": 3, "test": 7}


def test_labels_become_the_positions_in_the_list(table):
    rows = [{"text": str(index), "label": "yes" if index % 3 else "no"} for index in range(60)]
    examples = prepare(task(labels=["no", "yes"]), {"train": table(rows)})
    expected = {str(index): int(index % 3 > 0) for index in range(60)}
    assert dict(zip(examples["text_a"], examples["label"], strict=True)) == expected


def test_rows_without_text_or_label_are_left_out(table):
    gaps = [{"text": "  ", "label": 1}, {"text": None, "label": 1}, {"text": "x", "label": None}]
    examples = prepare(task(), {"train": table([*ROWS, *gaps])})
    assert len(examples) == 100


def test_rank_pairs_compares_ratings_of_sentences_that_no_other_split_has(table):
    rows = [{"text": f"s{index}", "label": index / 10} for index in range(100)]
    ranked = task(labels=None, rank_pairs={"score": "label", "min_gap": 1.0})
    examples = prepare(ranked, {"train": table(rows)})
    rating = {row["text"]: row["label"] for row in rows}
    for pair in examples.itertuples():
        gap = rating[pair.text_a] - rating[pair.text_b]
        assert abs(gap) >= 1.0
        assert pair.label == int(gap > 0)
    used = {
        split: set(part["text_a"]) | set(part["text_b"])
        for split, part in examples.groupby("split")
    }
    assert not used["train"] & used["test"]
    assert not used["train"] & used["validation"]
    assert not used["validation"] & used["test"]
    unordered = [frozenset(pair) for pair in examples[["text_a", "text_b"]].to_numpy().tolist()]
    assert len(set(unordered)) == len(unordered)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "answer"}, "has no column 'answer'; choose one of text, label"),
        ({"text": ["premise"]}, "has no column 'premise'; choose one of text, label"),
        (
            {"labels": [0, 2]},
            r"50 rows with labels .* \[0, 2\]: 1; the first is row 2 of",
        ),
        (
            {"labels": ["0", "1"]},
            "100 rows with labels .*: 0, 1; the first is row 1 of",
        ),
    ],
)
def test_a_table_that_does_not_fit_its_task_is_refused(table, changes, message):
    with pytest.raises(DataError, match=message):
        prepare(task(**changes), {"train": table(ROWS)})


def test_words_as_numbers_are_refused(table):
    rows = [{"text": "x", "label": "high"}]
    with pytest.raises(DataError, match="the label 'high', which is not a number"):
        prepare(task(labels=None, metric="pearson"), {"train": table(rows)})


def test_an_empty_split_is_refused(table):
    with pytest.raises(DataError, match="the test split has no examples; add"):
        prepare(task(), {"train": table(ROWS[:2])})


TABLES = {
    "rows.csv": 'text,label\n"a, b",1\nc,0\n',
    "rows.tsv": "text\tlabel\na, b\t1\nc\t0\n",
    "rows.jsonl": '{"text": "a, b", "label": 1}\n{"text": "c", "label": 0}\n',
    "rows.json": '[{"text": "a, b", "label": 1},\n {"text": "c", "label": 0}]\n',
}


@pytest.mark.parametrize(("name", "content"), TABLES.items())
def test_the_format_goes_by_the_file_name(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    frame = read_table(task().train, tmp_path / name)
    labels = [1, 0] if "json" in name else ["1", "0"]
    assert frame.to_dict("list") == {"text": ["a, b", "c"], "label": labels}


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_values_of_json_stay_as_they_are_written(tmp_path, name):
    rows = [
        {"answer": "007", "date": "2024-01-01", "tests": ["a", "b"], "text": "ß\u2028\n", "n": 1},
        {"answer": "1e5", "date": "x", "tests": [], "text": "true", "n": 2, "more": {"a": [1]}},
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / name).write_text(lines if name.endswith("l") else json.dumps(rows))
    rows_read = read_table(task().train, tmp_path / name).to_dict("records")
    assert [{key: row[key] for key in rows[0]} for row in rows_read] == [
        {key: row[key] for key in rows[0]} for row in rows
    ]
    assert rows_read[1]["more"] == {"a": [1]}


def test_parquet_parts_of_a_folder_are_read_in_order(tmp_path):
    for part in (0, 1):
        frame = pd.DataFrame({"text": [f"part {part}"], "label": [part]})
        frame.to_parquet(tmp_path / f"train-0000{part}.parquet")
    frame.to_parquet(tmp_path / "test-00000.parquet")
    table = task(train=SOURCE | {"files": "train-*.parquet"}).train
    assert read_table(table, tmp_path)["text"].tolist() == ["part 0", "part 1"]


def test_lines_are_split_by_a_pattern(tmp_path):
    (tmp_path / "rows.txt").write_text("NUM:date When was it ?\nLOC:city Where ?\nLOC:x Who ?\n")
    lines = {"format": "lines", "pattern": r"(?P<kind>\w+):\w+ (?P<text>.*)", "rows": "-2:"}
    frame = read_table(task(train=SOURCE | lines).train, tmp_path / "rows.txt")
    assert frame.to_dict("list") == {"kind": ["LOC", "LOC"], "text": ["Where ?", "Who ?"]}


@pytest.mark.parametrize(
    ("name", "content", "changes", "message"),
    [
        ("rows.txt", "x", {}, "unknown format of rows.txt; set `format`"),
        ("rows.jsonl", "no json", {}, "cannot be read as jsonl"),
        ("rows.json", '{"text": "x"}\n{"text": "y"}', {}, "cannot be read as json: .*set `format`"),
        (
            "rows.txt",
            "x",
            {"format": "lines", "pattern": "(?P<a>y)"},
            "line 1 of rows.txt does n",
        ),
    ],
)
def test_an_unreadable_table_is_refused(tmp_path, name, content, changes, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_table(task(train=SOURCE | changes).train, tmp_path / name)


def test_a_folder_needs_a_pattern_that_matches(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"is a folder \(train\.jsonl\); set `files`"):
        read_table(task().train, tmp_path)
    with pytest.raises(DataError, match=r"matches dev-\*; it contains train\.jsonl"):
        read_table(task(train=SOURCE | {"files": "dev-*"}).train, tmp_path)
