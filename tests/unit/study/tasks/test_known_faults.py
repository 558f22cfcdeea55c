"""Faults that users of other tools met in tables, labels, gold answers and prompts."""

import csv
import datetime
import gzip
import io
import json
import logging
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mergegrid.errors import DataError
from mergegrid.study.schema.benchmarks import Benchmark
from mergegrid.study.schema.tasks import Task
from mergegrid.study.tasks.benchmarks import READERS
from mergegrid.study.tasks.examples import prepare
from mergegrid.study.tasks.labels import class_of, number_of
from mergegrid.study.tasks.questions import prepare_questions
from mergegrid.study.tasks.table_files import read_table
from mergegrid.yaml_files import read_yaml

SOURCE = {"source": "path:x"}
#: Texts that some reader takes for something else.
ODD = [
    *("None", "NA", "N/A", "null", "NULL", "nan", "NaN", "<NA>", "#N/A", "n/a", "-nan", "nil"),
    *("007", "1.10", "1e5", "1E400", "-0", "+1", "0x1F", "1_000", "1,000", ".5", "5.", "٣"),
    *("True", "False", "true", "yes", "off", "inf", "-Infinity", "9007199254740993", "1" * 30),
    *("2024-01-01", "01/02/03", "12:30", "2024-01-01T00:00:00Z", "1 day"),
    *("a\u2028b", "a\x85b", 'say "hi"', "it's", "a, b", "back\\slash", "\\n", "=1+1", "# no", "ß"),
]
#: Formats that can hold any text but a line break or a tab, and how each is written.
FORMATS = ["csv", "tsv", "json", "jsonl", "parquet", "json columns", "json pandas", "jsonl.gz"]


def write(folder, kind, columns):
    """Write columns in a format; return the file and the settings of its table."""
    path = folder / f"rows.{kind.split()[0]}"
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if kind in ("csv", "tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            if kind == "csv":
                csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
            else:
                lines = [columns, *zip(*columns.values(), strict=True)]
                file.writelines("\t".join(line) + "\n" for line in lines)
    elif kind == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif kind == "json columns":
        path.write_text(json.dumps(columns), encoding="utf-8")
    elif kind == "json pandas":
        pd.DataFrame(columns).to_json(path)
    elif kind == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if kind.endswith("gz"):
            path.write_bytes(gzip.compress(lines.encode()))
            return path, SOURCE | {"format": "jsonl"}
        path.write_text(lines, encoding="utf-8")
    return path, SOURCE


def task(table, **changes):
    values = {"text": ["text"], "labels": ["pos", "neg"], "metric": "accuracy", "train": table}
    return Task.model_validate(values | changes)


# Texts stay texts.


@pytest.mark.parametrize("kind", FORMATS)
def test_texts_are_what_was_written_in_every_format(tmp_path, kind):
    texts = [*ODD, *(f" {text} " for text in ODD)]
    path, table = write(tmp_path, kind, {"text": texts, "other": texts[::-1]})
    found = read_table(task(table).train, path)
    assert found["text"].tolist() == texts
    assert found["other"].tolist() == texts[::-1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet"]),
    rows=st.lists(
        st.tuples(
            *[
                st.one_of(
                    st.sampled_from(ODD),
                    st.from_regex(r"[-+]?[0-9]{0,25}(\.[0-9]{0,4})?(e[0-9]{1,3})?", fullmatch=True),
                    st.text(
                        st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\t\r\n")
                    ),
                )
            ]
            * 2
        ).filter(any),
        min_size=1,
        max_size=6,
    ),
)
def test_any_text_is_read_as_it_was_written(tmp_path, kind, rows):
    # What a writer of quoted fields would have written, too.
    assume(kind != "tsv" or not any('""' in text for row in rows for text in row))
    columns = {"text": [row[0] for row in rows], "other": [row[1] for row in rows]}
    path, table = write(tmp_path, kind, columns)
    assert read_table(task(table).train, path).to_dict("list") == columns


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "labels",
    [
        ["pos", "neg", "None"],
        ["NA", "null", "nan"],
        ["1", "01", "1.0"],
        ["1.10", "1.1", "1e1"],
        ["True", "true", "TRUE"],
        ["yes", "no", "n/a"],
        ["2024-01-01", "12:30", "-0"],
    ],
)
def test_rows_of_every_label_stay_and_have_their_class(tmp_path, kind, labels):
    classes = [index % len(labels) for index in range(60)]
    columns = {
        "text": [f"0{index}" for index in range(60)],
        "label": [labels[index] for index in classes],
    }
    path, table = write(tmp_path, kind, columns)
    examples = prepare(task(table, labels=labels), {"train": path})
    found = dict(zip(examples["text_a"], examples["label"], strict=True))
    assert found == dict(zip(columns["text"], classes, strict=True))


def test_a_table_of_fields_has_the_columns_of_its_header(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("\ufefftext , label\r\n a,1\r\n".encode())
    found = read_table(task(SOURCE).train, path)
    assert found.to_dict("list") == {"text": [" a"], "label": ["1"]}
    # pandas takes the first column for an index, and the second for the text.
    path.write_text("text,label\nnot good, is it,0\nvery, very good,1\n")
    with pytest.raises(DataError, match=r"read as csv: line 2 has 3 fields instead of 2: 'not goo"):
        read_table(task(SOURCE).train, path)
    path.write_text("text,label\n")
    assert read_table(task(SOURCE).train, path).to_dict("list") == {"text": [], "label": []}
    path.write_text("text,label,label\na,b,c\n")
    with pytest.raises(DataError, match="two columns have the name 'label'"):
        read_table(task(SOURCE).train, path)


@pytest.mark.parametrize(
    ("kind", "content", "texts"),
    [
        ("csv", "text,label\r\na,1\r\n\r\nb,2", ["a", "b"]),
        ("csv", "text,label\ra,1\rb,2\r", ["a", "b"]),
        ("csv", "text,label\na\0b,1\n", ["a\0b"]),
        ("csv", 'text,label\n"a\rb",1\n"c\nd",2', ["a\rb", "c\nd"]),
        ("csv", f"text,label\n{'a' * 200_000},1\n", ["a" * 200_000]),
        ("tsv", "text\tlabel\ra\t1\rb\t2\r", ["a", "b"]),
        ("tsv", "text\tlabel\na\0b\t1\n", ["a\0b"]),
        # As pandas writes; as GLUE does, where a quotation mark is a character like any other.
        ("tsv", 'text\tlabel\n"say ""hi"""\t1\nb\t2\n', ['say "hi"', "b"]),
        ("tsv", 'text\tlabel\n"say ""hi"""\t1\n"b\t2\n', ['"say ""hi"""', '"b']),
        ("tsv", 'text\tlabel\n"hi"\t1\n', ['"hi"']),
    ],
)
def test_fields_are_what_their_writer_meant(tmp_path, kind, content, texts):
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(content.encode())
    assert read_table(task(SOURCE).train, path)["text"].tolist() == texts


@pytest.mark.parametrize(
    ("kind", "content", "what"),
    [
        ("csv", "", "the file is empty"),
        ("csv", "text,label\na\n", "line 2 has 1 fields instead of 2: 'a'"),
        ("csv", "text\na\nb\rc\n", "line 3: a carriage return in a field"),
        ("csv", 'text,label\nb,1\n"a,2\n', "line 3: unexpected end of data"),
        ("csv", 'text,label\n"a" said,2\n', "line 2: ',' expected after"),
        ("tsv", "text\na\nb\rc\n", "line 3: a carriage return in a field"),
        ("tsv", 'text\tlabel\n"a\nb"\t1\n', "line 2 has 1 fields instead of 2"),
    ],
)
def test_fields_that_no_reading_fits_are_refused(tmp_path, kind, content, what):
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(content.encode())
    with pytest.raises(DataError, match=f"cannot be read as {kind}: {what}"):
        read_table(task(SOURCE).train, path)


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (pa.array([1.1, 2.0]), "1.1, which is float"),
        (pa.array([True, False]), "True, which is bool"),
        (pa.array([b"ab", b"c"]), "b'ab', which is bytes"),
        (pa.array([["a"], ["b"]]), r"\['a'\], which is list"),
        (pa.array([datetime.date(2024, 1, 1)] * 2), ".*which is date"),
    ],
)
def test_what_is_no_text_is_refused_in_a_text_column(tmp_path, column, what):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": column, "label": ["pos", "neg"]}), path)
    with pytest.raises(DataError, match=f"row 1 of path:x: .* 'text' has the value {what}"):
        prepare(task(SOURCE), {"train": path})


def test_integers_keep_their_digits_beside_a_gap(tmp_path):
    big = 9007199254740993
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [big, None, 7], "flag": [True, None, False]}), path)
    found = read_table(task(SOURCE).train, path)
    assert found.to_dict("list") == {"text": [big, None, 7], "flag": [True, None, False]}
    (tmp_path / "rows.jsonl").write_text(f'{{"text": {big}}}\n{{"flag": true}}\n')
    found = read_table(task(SOURCE).train, tmp_path / "rows.jsonl")
    assert found.to_dict("list") == {"text": [big, None], "flag": [None, True]}


# Rows that are not whole, and labels that are none.


def test_rows_left_out_are_counted_and_placed(tmp_path, caplog):
    rows = [{"text": f"t{index}", "label": "pos"} for index in range(30)]
    rows[3] = {"text": "", "label": "pos"}
    rows[7] = {"text": "x", "label": None}
    rows[9] = {"text": "x"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.WARNING):
        examples = prepare(task(SOURCE), {"train": path})
    assert len(examples) == 27
    assert "train: dropped 3 of 30 rows without text or label, first row 4 of" in caplog.text


def test_an_empty_field_is_a_label_where_it_is_listed(tmp_path):
    path, table = write(
        tmp_path, "csv", {"text": [f"t{i}" for i in range(40)], "label": ["", "x"] * 20}
    )
    examples = prepare(task(table, labels=["", "x"]), {"train": path})
    assert examples["label"].value_counts().to_dict() == {0: 20, 1: 20}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("value", ["POS", "positive", "None", "-1", "nan"])
def test_a_label_that_is_not_listed_is_refused_with_its_row(tmp_path, kind, value):
    columns = {"text": [f"t{i}" for i in range(40)], "label": ["pos", "neg"] * 20}
    columns["label"][11] = value
    path, table = write(tmp_path, kind, columns)
    wrong = rf"1 rows with labels that are not in .*\['pos', 'neg'\]: {value!r}"
    with pytest.raises(DataError, match=rf"{wrong}.*first is row 12 of path:x"):
        prepare(task(table), {"train": path})


@pytest.mark.parametrize(
    ("labels", "value", "expected"),
    [
        # Booleans, and what stands for them in other formats.
        ([False, True], True, 1),
        ([False, True], False, 0),
        *(([False, True], text, 1) for text in ("true", "True", "TRUE", "yes", "1", " on ")),
        *(([False, True], text, 0) for text in ("false", "False", "no", "0", "off")),
        ([False, True], 1, 1),
        ([False, True], 0.0, 0),
        ([True, False], True, 0),
        ([False, True], 2, None),
        ([False, True], "maybe", None),
        ([False, True], None, None),
        ([0, 1], True, 1),
        ([0, 1], "False", 0),
        (["False", "True"], True, 1),
        (["true", "false"], True, 0),
        ([True, False, "maybe"], "maybe", 2),
        # Numbers.
        ([0, 1, 2], "2", 2),
        ([0, 1, 2], 2.0, 2),
        ([0, 1, 2], "2.0", 2),
        ([0, 1], "-0", 0),
        ([7, 8], "007", 0),
        ([0, 1], "", None),
        ([0, 1], float("nan"), None),
        ([0, 1], 0.5, None),
        ([0, 1], "0.5", None),
        ([0, 1], -1, None),
        ([0, 1], [0], None),
        ([2**53, 2**53 + 1], str(2**53 + 1), 1),
        ([2**53, 2**53 + 1], 2**53 + 1, 1),
        # Texts are compared as texts.
        (["1", "1.0"], "1.0", 1),
        (["1", "2"], "1.0", None),
        (["0", "1"], 1, None),
        (["a", "b"], " b", 1),
        (["a", "b"], "B", None),
        (["A", "a"], "a", 1),
    ],
)
def test_a_value_stands_for_one_label_or_none(labels, value, expected):
    assert class_of(value, labels) == expected


@given(
    st.lists(
        st.one_of(st.integers(), st.booleans(), st.text(max_size=8)), min_size=2, max_size=6
    ).filter(
        lambda labels: (
            len({str(label).strip().lower() for label in labels}) == len(labels)
            and len({label if isinstance(label, str) else int(label) for label in labels})
            == len(labels)
        )
    ),
    st.data(),
)
def test_every_label_stands_for_itself_and_for_how_it_is_written(labels, data):
    at = data.draw(st.integers(0, len(labels) - 1))
    assert class_of(labels[at], labels) == at
    assert class_of(str(labels[at]), labels) == at


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("written", ["typed", "words"])
def test_tasks_with_booleans_for_labels(tmp_path, kind, written):
    values = [index % 3 == 0 for index in range(30)]
    if kind == "csv" or written == "words":
        values = [str(value) for value in values]
    path, table = write(tmp_path, kind, {"text": [f"t{i}" for i in range(30)], "label": values})
    boolean = task(table, labels=[False, True])
    assert Task.model_validate_json(boolean.model_dump_json()) == boolean
    assert boolean.classes == [False, True]
    assert [type(label) for label in boolean.classes] == [bool, bool]
    examples = prepare(boolean, {"train": path})
    assert examples["label"].sum() == 10
    assert examples["label"].dtype == np.int64


def test_labels_that_yaml_takes_for_booleans(tmp_path):
    (tmp_path / "task.yaml").write_text("labels: [no, yes]\n")
    labels = read_yaml(tmp_path / "task.yaml")["labels"]
    path, table = write(
        tmp_path, "csv", {"text": [f"t{i}" for i in range(40)], "label": ["yes", "no"] * 20}
    )
    examples = prepare(task(table, labels=labels), {"train": path})
    expected = {f"t{index}": int(index % 2 == 0) for index in range(40)}
    assert dict(zip(examples["text_a"], examples["label"], strict=True)) == expected


@pytest.mark.parametrize("labels", [[1, "1"], [True, "true"], [0, False], ["a", "a"]])
def test_labels_that_are_written_alike_are_refused(labels):
    with pytest.raises(ValidationError, match="lists a label twice"):
        task(SOURCE, labels=labels)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((text, float(text)) for text in ("3", "3.80", "-0", "1e5", " 2.5 ", ".5", "5.", "+1")),
        (3, 3.0),
        (0.1, 0.1),
        *((text, None) for text in ("nan", "NaN", "inf", "-inf", "Infinity", "", "high", "1e999")),
        *((text, None) for text in ("1,5", "1_0", "٣", "0x1F", "None", "3 4", "--1")),
        *((value, None) for value in (math.nan, math.inf, True, None, [1], 10**400)),
    ],
)
def test_golds_of_a_regression_are_finite_numbers(value, expected):
    assert number_of(value) == expected


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("gold", ["nan", "inf", "high"])
def test_a_gold_that_is_no_number_is_refused_with_its_row(tmp_path, kind, gold):
    golds = ["1.5"] * 20
    golds[4] = gold
    path, table = write(tmp_path, kind, {"text": [f"t{i}" for i in range(20)], "label": golds})
    with pytest.raises(DataError, match=f"row 5 of path:x has the label '{gold}', which is not a"):
        prepare(task(table, labels=None, metric="pearson"), {"train": path})


@pytest.mark.parametrize("gold", [math.nan, math.inf, True])
def test_a_gold_of_another_type_is_refused(tmp_path, gold):
    rows = [{"text": f"t{i}", "label": 0.5 if i else gold} for i in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"row 1 of path:x has the label (nan|inf|True), which is"):
        prepare(task(SOURCE, labels=None, metric="pearson"), {"train": tmp_path / "rows.json"})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_to_the_bit(value):
    for written in (value, repr(value), f" {value!r}", json.loads(json.dumps(value))):
        found = number_of(written)
        assert found == value
        assert math.copysign(1, found) == math.copysign(1, value)


# Golds of benchmarks.

GSM8K = {"question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}
MATH = {"problem": "p", "solution": r"so \boxed{5}"}
MBPP = {
    "task_id": 11,
    "text": "Write a function to double.",
    "code": "def double(x):\r\n    return 2 * x",
    "test_list": ["assert double(1) == 2", "assert double(0) == 0"],
    "test_setup_code": "",
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "\n\ndef one():\n    '''Gives 1.'''\n",
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}
TALK = {"instruction": "Say hello.", "output": "Hello!", "dataset": "x"}
GOOD = {
    "gsm8k": GSM8K,
    "math": MATH,
    "mbpp": MBPP,
    "humaneval": HUMANEVAL,
    "alpaca_eval": TALK,
    "instructions": TALK,
}
TESTS = MBPP["test_list"]


def benchmark(kind, **changes):
    values = {"kind": kind, "records": {"source": "path:records.json"}}
    if kind == "alpaca_eval":
        values["judge"] = {"model": "tiny"}
    return Benchmark.model_validate(values | changes)


def prepared(tmp_path, kind, *records, **changes):
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records))
    return prepare_questions(benchmark(kind, **changes), path)


def reference(questions):
    return json.loads(questions["reference"][0])


@pytest.mark.parametrize(
    "tests",
    [
        TESTS,
        json.dumps(TESTS),
        repr(TESTS),
        str(tuple(TESTS)),
        json.dumps(json.dumps(TESTS))[1:-1].replace('\\"', '"'),
        tuple(TESTS),
        np.array(TESTS),
        np.array(TESTS, dtype=object),
        [*TESTS, "  "],
    ],
)
def test_the_tests_of_mbpp_are_a_list_however_they_are_written(tests):
    (question,) = READERS["mbpp"]([MBPP | {"test_list": tests}])
    assert question.reference["test_list"] == TESTS
    assert question.instruction.endswith("Test examples:\n" + "\n".join(TESTS))


@pytest.mark.parametrize("program", [TESTS[0], "\n".join(TESTS), f"x = 1\n{TESTS[0]}"])
def test_one_program_is_one_test(program):
    (question,) = READERS["mbpp"]([MBPP | {"test_list": program}])
    assert question.reference["test_list"] == [program]


def test_lists_are_read_the_same_out_of_csv_and_parquet(tmp_path):
    record = MBPP | {"test_list": repr(TESTS)}
    path, _ = write(tmp_path, "csv", {name: [str(value)] for name, value in record.items()})
    pq.write_table(pa.table({n: [v] for n, v in MBPP.items()}), tmp_path / "rows.parquet")
    tables = [
        prepare_questions(benchmark("mbpp"), file) for file in (path, tmp_path / "rows.parquet")
    ]
    for table in tables:
        assert reference(table)["test_list"] == TESTS
    assert tables[0]["prompt"][0] == tables[1]["prompt"][0]


@pytest.mark.parametrize("missing", [{"test_setup_code": None}, {"code": None}])
def test_what_no_score_needs_may_be_missing(tmp_path, missing):
    (name,) = missing
    rest = {key: value for key, value in MBPP.items() if key != name}
    for record in (MBPP | missing, rest):
        assert reference(prepared(tmp_path, "mbpp", record))[name] == ""
    rest = {key: value for key, value in HUMANEVAL.items() if key != "canonical_solution"}
    assert reference(prepared(tmp_path, "humaneval", rest))["canonical_solution"] == ""


def test_the_sanitized_records_of_mbpp_bring_their_imports(tmp_path):
    record = {"task_id": 2, "prompt": "Write it.", "test_imports": ["import math"]}
    found = prepared(tmp_path, "mbpp", record | {"test_list": ["assert math.pi"]})
    assert reference(found)["test_setup_code"] == "import math"
    assert found["instruction"][0].startswith("Write it.\n")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("so 5\n#### 5", "so 5\n#### 5"),
        ("#### 1,234", "#### 1,234"),
        ("#### $18", "#### $18"),
        ("#### -2", "#### -2"),
        ("a #### 5\n#### 5", "a #### 5\n#### 5"),
        ("5", "5"),
        (5, "5"),
        (2.5, "2.5"),
        (-3, "-3"),
    ],
)
def test_golds_of_gsm8k(tmp_path, answer, expected):
    assert reference(prepared(tmp_path, "gsm8k", GSM8K | {"answer": answer})) == {
        "answer": expected
    }


@pytest.mark.parametrize(
    ("record", "gold"),
    [
        ({"problem": "p", "answer": 5}, "5"),
        ({"problem": "p", "answer": 0}, "0"),
        ({"problem": "p", "answer": 0.5}, "0.5"),
        ({"problem": "p", "answer": r"\frac{1}{2}"}, r"\frac{1}{2}"),
        ({"problem": "p", "answer": r"$\boxed{\frac{1}{2}}$"}, r"\frac{1}{2}"),
        ({"problem": "p", "solution": r"\boxed{4}", "answer": "5"}, "5"),
    ],
)
def test_golds_of_math(tmp_path, record, gold):
    assert reference(prepared(tmp_path, "math", record)) == {"answer": gold}


WRONG = {
    "mbpp": [
        ({"test_list": []}, "asserts nothing"),
        ({"test_list": [""]}, "asserts nothing"),
        ({"test_list": "[]"}, "asserts nothing"),
        ({"test_list": ["double(1)"]}, "asserts nothing"),
        (
            {"test_list": ["assert (double(1) == 3, 'wrong')"]},
            "asserts a tuple, which is always t",
        ),
        (
            {"test_list": [TESTS[0], "assert (double(1), 3)"]},
            "asserts a tuple, which is always t",
        ),
        ({"test_list": [1, 2]}, "is not a list of texts"),
        ({"test_list": [TESTS]}, "is not a list of texts"),
        ({"test_list": 7}, "is not a list of texts"),
        ({"test_list": True}, "is not a list of texts"),
        ({"test_list": {"a": TESTS[0]}}, "is not a list of texts"),
        ({"test_list": ""}, "asserts nothing"),
        ({"test_list": ["assert double(1) =="]}, "is not valid Python"),
        ({"test_list": "a sentence about tests"}, "is not valid Python"),
        ({"test_list": None}, "none of the columns test_list"),
        ({"test_setup_code": "import"}, "is not valid Python"),
        ({"test_setup_code": ["import math"]}, "list, not text"),
        ({"test_imports": "import math"}, "is not a list of texts"),
        ({"code": 3.5}, "float, not text"),
        ({"text": ""}, "is empty"),
        ({"text": " \n"}, "is empty"),
        ({"text": ["a"]}, "list, not text"),
        ({"task_id": None}, "none of the columns task_id"),
        ({"task_id": 1.5}, "float, not text"),
    ],
    "humaneval": [
        ({"test": "assert one() == 1"}, r"does not define check\(candidate\)"),
        ({"test": "def chek(candidate):\n    pass"}, r"does not define check\(candidate\)"),
        ({"test": "class check:\n    pass"}, r"does not define check\(candidate\)"),
        ({"test": "def check(candidate):\n"}, "is not valid Python"),
        *(
            ({"test": f"{before}def check(candidate):\n    {body}"}, "asserts nothing in check")
            for before, body in (
                ("", "pass"),
                ("", "candidate() == 1"),
                ("", "return candidate() == 1"),
                ("", "print(candidate())"),
                ("", "assert True, 'reached'"),
                ("", "assert 1"),
                ("assert True\n", "candidate()"),
                ("def same(a, b):\n    return a == b\n", "same(candidate(), 1)"),
                ("def same(a, b):\n    assert a == b\n", "same == candidate()"),
                ("def other():\n    assert False\n", "check(candidate)"),
            )
        ),
        (
            {"test": "def check(candidate):\n    assert (candidate() == 2, 'wrong')"},
            "asserts a tuple, which is always t",
        ),
        (
            {"test": "async def check(candidate):\n    assert candidate() == 1"},
            r"does not define check\(candidate\)",
        ),
        ({"prompt": "def one():\n    '''Gives 1.\n"}, "is not valid Python"),
        ({"prompt": "def one(:\n    '''Gives 1.'''\n"}, "is not valid Python"),
        ({"prompt": "Write this.\ndef one():\n    '''Gives 1.'''\n"}, "is not valid Python"),
        ({"test": ["def check(c): pass"]}, "list, not text"),
        ({"test": ""}, "is empty"),
        ({"test": None}, "none of the columns test"),
        ({"entry_point": None}, "none of the columns entry_point"),
        ({"entry_point": "two"}, "is not a function that the prompt defines"),
        ({"entry_point": "on"}, "is not a function that the prompt defines"),
        ({"prompt": "# def one():\n"}, "is not a function that the prompt defines"),
        ({"prompt": ""}, "is empty"),
        ({"prompt": None}, "none of the columns prompt"),
    ],
    "gsm8k": [
        ({"answer": "It is 20."}, "has no gold answer"),
        ({"answer": "#### "}, "has no gold answer"),
        ({"answer": "so 5\n####"}, "has no gold answer"),
        ({"answer": "#### twenty"}, "has no gold answer"),
        ({"answer": "#### 5 or 6"}, "has no gold answer"),
        ({"answer": "#### 5\n#### 6"}, "several different gold answers"),
        ({"answer": ""}, "is empty"),
        ({"answer": None}, "none of the columns answer"),
        ({"answer": True}, "bool, not text"),
        ({"answer": ["5"]}, "list, not text"),
        ({"answer": math.nan}, "has no gold answer"),
        ({"answer": math.inf}, "has no gold answer"),
        ({"question": "  "}, "is empty"),
        ({"question": 3.5}, "float, not text"),
    ],
    "math": [
        ({"solution": "It is 5."}, r"has no \\boxed{} answer"),
        ({"solution": r"\boxed{}"}, r"has no \\boxed{} answer"),
        ({"solution": r"\boxed{\frac{1}{2}"}, r"has no \\boxed{} answer"),
        ({"solution": None}, "none of the columns solution, output"),
        ({"solution": ["5"]}, "list, not text"),
        ({"answer": ["5"]}, "list, not text"),
        ({"answer": False}, "bool, not text"),
        ({"answer": r"\text{}"}, "has an answer that the grader of MATH cannot read"),
        ({"answer": r"\frac{1}{2"}, "has an answer that the grader of MATH cannot read"),
        ({"problem": ""}, "is empty"),
        ({"problem": {"a": 1}}, "dict, not text"),
    ],
    "alpaca_eval": [
        ({"instruction": ["Say hello."]}, "list, not text"),
        ({"instruction": " "}, "is empty"),
        ({"output": {"text": "Hello!"}}, "dict, not text"),
        ({"output": None}, "none of the columns output"),
        ({"output": 1.5}, "float, not text"),
        ({"dataset": ["x"]}, "list, not text"),
    ],
    "instructions": [
        ({"output": ""}, "is empty"),
        ({"output": ["a"]}, "list, not text"),
        ({"instruction": "\n"}, "is empty"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "change", "what"),
    [(kind, *case) for kind, cases in WRONG.items() for case in cases],
)
def test_a_gold_or_question_that_cannot_be_used_is_refused_with_its_record(
    tmp_path, kind, change, what
):
    first = GOOD[kind] | ({"task_id": "first"} if "task_id" in GOOD[kind] else {})
    with pytest.raises(DataError, match=rf"record 2.* of {kind}.*{what}"):
        prepared(tmp_path, kind, first, GOOD[kind] | change)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "def one():\n"},
        {"prompt": "def one():\n    # Gives 1."},
        {"prompt": "def one():\n\t'''Gives 1.'''\n"},
        {"prompt": "class one:\n    '''Gives 1.'''\n"},
        {"test": "def same(a, b):\n    assert a == b\ndef check(f):\n    same(f(), 1)"},
        {
            "test": "def check(f):\n    both(f)\ndef both(f):\n    same(f(), 1)\n"
            "def same(a, b):\n    if a != b:\n        raise AssertionError"
        },
        {"test": "def check(f):\n    def same(a):\n        assert a == 1\n    same(f())"},
        {"test": "import numpy as np\ndef check(f):\n    np.testing.assert_equal(f(), 1)"},
        {"test": "def check(f):\n    assert True\n    assert f() == 1, 'wrong'"},
    ],
)
def test_prompts_and_tests_of_humaneval_that_can_be_used(change):
    (question,) = READERS["humaneval"]([HUMANEVAL | change])
    assert question.reference["test"] == (HUMANEVAL | change)["test"]


@pytest.mark.parametrize("kind", GOOD)
def test_the_records_that_are_corrupted_above_are_good(tmp_path, kind):
    found = prepared(tmp_path, kind, GOOD[kind])
    assert len(found) == 1
    assert found["instruction"][0].strip() in found["prompt"][0].replace("\t", "    ")


def test_a_record_is_named_by_its_own_name_too(tmp_path):
    with pytest.raises(DataError, match=r"record 1 \(11\) of mbpp: 'test_list' asserts .*: \[\];"):
        prepared(tmp_path, "mbpp", MBPP | {"test_list": []})


def test_every_packaged_problem_can_be_graded():
    assert len(prepare_questions(Benchmark(kind="humaneval"), None)) == 164


@pytest.mark.parametrize("name", [0, "0", "a"])
def test_names_are_compared_as_they_are_written(tmp_path, name):
    records = [MATH | {"unique_id": name}, MATH | {"unique_id": str(name)}]
    with pytest.raises(DataError, match=f"have the id {name}: records 1 and 2"):
        prepared(tmp_path, "math", *records)


@pytest.mark.parametrize("prompt", ["", "Answer:", "{question}", "{ instruction }", "{}"])
def test_a_prompt_that_drops_the_question_is_refused(prompt):
    with pytest.raises(ValidationError, match="instruction"):
        benchmark("gsm8k", prompt=prompt)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=12).map(
            lambda text: f"assert f({text!r}) == {len(text)}"
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_list_of_tests_survives_every_way_to_write_it(tests):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"tests": [tests]}), buffer)
    out_of_parquet = pq.read_table(buffer)["tests"][0].as_py()
    ways = [tests, tuple(tests), np.array(tests, dtype=object), json.dumps(tests), repr(tests)]
    for written in [*ways, out_of_parquet]:
        (question,) = READERS["mbpp"]([MBPP | {"test_list": written}])
        assert question.reference["test_list"] == tests
