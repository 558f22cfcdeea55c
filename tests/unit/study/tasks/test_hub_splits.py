"""Splits of data sets laid out as on the hub: the files of `load_dataset`, read by our readers."""

import json

import datasets
import pytest
from pydantic import ValidationError

from mergegrid.errors import DataError
from mergegrid.study.schema.tasks import Table, Task
from mergegrid.study.tasks.examples import prepare
from mergegrid.study.tasks.table_files import read_table

NAMES = ["not_entailment", "entailment"]
README = """---
configs:
- config_name: rte
  data_files:
  - {split: train, path: rte/train-*}
  - {split: validation, path: rte/validation-*}
- config_name: texts
  data_files:
  - {split: train, path: texts/one.csv}
---
"""


def rows(start, count=20):
    return {
        "sentence": [f"sentence {number}" for number in range(start, start + count)],
        "label": [number % 2 for number in range(count)],
    }


@pytest.fixture
def repository(tmp_path):
    """A data set with two configurations; the labels of `rte` are class numbers with names."""
    datasets.disable_progress_bars()
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    )
    for name, start in [("train-00000-of-00002", 0), ("train-00001-of-00002", 20),
                        ("validation-00000-of-00001", 40)]:  # fmt: skip
        part = datasets.Dataset.from_dict(rows(start), features=features)
        (tmp_path / "rte").mkdir(exist_ok=True)
        part.to_parquet(str(tmp_path / "rte" / f"{name}.parquet"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.csv").write_text("id,text\n007,NA\n008,2020-01-01\n009,null\n")
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def table(**values):
    return Table.model_validate({"source": "hub:org/glue", **values})


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_has_the_rows_of_load_dataset(repository, tmp_path, split):
    expected = datasets.load_dataset(
        str(repository), "rte", split=split, cache_dir=str(tmp_path / "cache")
    )
    frame = read_table(table(config="rte", split=split), repository)
    assert frame.to_dict(orient="records") == expected.to_list()


def test_a_folder_without_a_readme_is_split_by_its_file_names(repository):
    frame = read_table(table(split="validation", rows=":5"), repository / "rte")
    assert frame["sentence"].tolist() == [f"sentence {number}" for number in range(40, 45)]


def test_texts_stay_as_they_are_written(repository):
    frame = read_table(table(config="texts", split="train"), repository)
    assert frame["id"].tolist() == ["007", "008", "009"]
    assert frame["text"].tolist() == ["NA", "2020-01-01", "null"]


def task(labels, **values):
    tables = {split: {"source": "hub:org/glue", "config": "rte", "split": split}
              for split in ("train", "validation")}  # fmt: skip
    settings = {"text": ["sentence"], "labels": labels, "metric": "accuracy"}
    return Task.model_validate(settings | tables | values)


def test_labels_may_be_written_by_the_names_of_the_classes(repository):
    paths = {"train": repository, "validation": repository}
    by_number = prepare(task([0, 1]), paths)
    by_name = prepare(task(NAMES), paths)
    assert by_name.equals(by_number)
    swapped = prepare(task(NAMES[::-1]), paths)
    assert swapped["label"].tolist() == (1 - by_number["label"]).tolist()


def test_a_name_that_the_data_set_does_not_have_is_refused(repository):
    with pytest.raises(DataError, match=r"'entailment'.*add their labels"):
        prepare(task(["yes", "not_entailment"]), {"train": repository, "validation": repository})


def test_hidden_labels_of_a_test_split_are_missing(repository):
    with (repository / "rte" / "test.jsonl").open("w") as lines:
        lines.writelines(json.dumps({"sentence": "x", "label": -1}) + "\n" for _ in range(3))
    readme = "configs:\n- config_name: rte\n  data_files: [{split: train, path: rte/test.jsonl}]\n"
    dataset_info = (
        "dataset_info:\n- config_name: rte\n  features:\n  - {name: sentence, dtype: string}\n"
        "  - name: label\n    dtype: {class_label: {names: {'0': a, '1': b}}}\n"
    )
    (repository / "README.md").write_text(f"---\n{readme}{dataset_info}---\n")
    table = {"source": "hub:org/glue", "config": "rte", "split": "train"}
    hidden = Task.model_validate(
        {"text": ["sentence"], "labels": ["a", "b"], "metric": "accuracy", "train": table}
    )
    with pytest.raises(DataError, match="no examples"):
        prepare(hidden, {"train": repository})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"split": "train"}, "Config name is missing.*rte.*texts"),
        ({"config": "cola", "split": "train"}, "'cola' not found.*rte.*texts"),
        ({"config": "rte", "split": "dev"}, "no split 'dev'.*train, validation"),
    ],
)
def test_what_a_data_set_does_not_have_is_one_line(repository, values, words):
    with pytest.raises(DataError, match=words) as error:
        read_table(table(**values), repository)
    assert "\n" not in str(error.value)


def test_splits_that_file_names_would_join_are_refused(tmp_path):
    for name in ("validation_matched", "validation_mismatched"):
        (tmp_path / f"{name}-00000-of-00001.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match=r"would join validation_matched, .*mismatched.*files"):
        read_table(table(split="validation"), tmp_path)


def test_a_file_has_no_splits(repository):
    with pytest.raises(DataError, match="is a file, which has no splits"):
        read_table(table(split="train"), repository / "texts" / "one.csv")


def test_a_script_is_not_run(tmp_path):
    folder = tmp_path / "glue"
    folder.mkdir()
    (folder / "glue.py").write_text("raise SystemExit")
    with pytest.raises(DataError, match=r"scripts are no longer supported.*`files`"):
        read_table(table(split="train"), folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"config": "rte"}, "without a split"),
        ({"split": "train", "files": "*.parquet"}, "already chooses the files"),
        ({"split": "train", "format": "lines", "pattern": "(?P<a>.*)"}, "already chooses"),
    ],
)
def test_keys_that_exclude_each_other_are_refused(values, words):
    with pytest.raises(ValidationError, match=words):
        table(**values)


def test_the_new_keys_change_no_identity_of_tables_without_them():
    assert {"config", "split"}.isdisjoint(table().model_dump(mode="json"))
