"""Local data of a study are read by its check, before anything runs."""

import pytest
import yaml
from typer.testing import CliRunner

from mergegrid.cli import app

MODEL = {"source": "hub:org/base"}
TEXTS = "text,label\n" + "".join(f"word {row},{row % 2}\n" for row in range(40))
QUESTION = '{"question": "One and one?", "answer": "2"}\n'
TRAINING = "".join(f'{{"question": "{row}?", "answer": "{row}"}}\n' for row in range(20))


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Check a study whose files have these contents; what it prints, and its error."""
    monkeypatch.chdir(tmp_path)

    def check(**files):
        contents = {"texts": TEXTS, "questions": QUESTION, "training": TRAINING} | files
        for name, content in contents.items():
            (tmp_path / name).write_text(content)
        expert = {
            "benchmarks": ["mine"],
            "data": {
                "records": {"source": "path:training", "format": "jsonl"},
                "instruction": "question",
                "output": "answer",
            },
        }
        study = {
            "encoders": {
                "families": {"bert": {"base": MODEL, "experts": {"words": {}, "other": {}}}},
                "tasks": {
                    "words": {
                        "text": ["text"],
                        "labels": [0, 1],
                        "metric": "accuracy",
                        "train": {"source": "path:texts", "format": "csv"},
                    },
                    "other": {
                        "text": ["absent"],
                        "metric": "pearson",
                        "train": {"source": "path:texts", "format": "csv"},
                        "test": {"source": "hub:org/data", "files": "test.csv"},
                    },
                },
            },
            "decoders": {
                "benchmarks": {
                    "mine": {
                        "kind": "gsm8k",
                        "records": {"source": "path:questions", "format": "jsonl"},
                    }
                },
                "families": {"llama": {"base": MODEL, "experts": {"math": expert}}},
                "merges": None,
            },
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
        result = CliRunner().invoke(app, ["check"])
        return result.stdout, str(result.exception or "")

    return check


def test_data_that_fit_are_fine_and_those_of_the_hub_are_not_read(check):
    printed, error = check()
    assert not error
    assert printed.startswith("study.yaml: OK, tasks: 2, encoder experts: 2, benchmarks: 1")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "texts",
            TEXTS.replace("text", "words", 1),
            "tasks.words: path:texts has no column",
        ),
        (
            "texts",
            TEXTS.replace(",1\n", ",2\n", 1),
            "words: path:texts has 1 rows with labels",
        ),
        ("texts", "text,label\na,0\nA,0\na,0\n", "2 of 3 in train; `drop_duplicates: false` keeps"),
        ("questions", "", "decoders.benchmarks.mine: there are no gsm8k records; choose"),
        ("questions", '{"answer": "2"}\n', "decoders.benchmarks.mine: "),
        ("training", QUESTION, "llama.experts.math.data: only 1 instructions are left"),
    ],
)
def test_data_that_do_not_fit_are_refused_by_their_key(check, file, content, message):
    assert message in check(**{file: content})[1]


def test_a_warning_begins_with_the_key_and_nothing_else_is_said(check, caplog):
    with caplog.at_level("INFO"):
        _, error = check(texts=TEXTS + ",1\n")
    assert not error
    assert "encoders.tasks.words: train: dropped 1 of" in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}
