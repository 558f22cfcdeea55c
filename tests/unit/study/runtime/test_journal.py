import json
import subprocess
import sys

import pytest

from mergegrid.study.runtime.journal import Journal

QUESTION = {"model": "ab12", "ids": [1, 2], "sampling": {"temperature": 0.5}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "not yet made" / "answers.jsonl"


def test_values_are_read_back_by_this_journal_and_the_next(path):
    journal = Journal(path)
    assert journal.get(QUESTION) is None
    journal.add(QUESTION, {"output": "5", "tokens": 7})
    assert journal.get(QUESTION) == Journal(path).get(QUESTION) == {"output": "5", "tokens": 7}


def test_the_key_depends_on_every_value_but_not_on_the_order_of_keys(path):
    journal = Journal(path)
    journal.add(QUESTION, 1)
    assert journal.get(dict(reversed(QUESTION.items()))) == 1
    assert journal.get(QUESTION | {"ids": [2, 1]}) is None
    assert journal.get(QUESTION | {"model": "ab13"}) is None


def test_the_last_value_of_a_key_wins(path):
    journal = Journal(path)
    for value in (1, 2):
        journal.add("same", value)
    assert journal.get("same") == Journal(path).get("same") == 2


@pytest.mark.parametrize("text", ["a\nb\r\n\u2028c\x00", "\ud800 alone", "ß 中 🙂", ""])
def test_any_text_survives(path, text):
    Journal(path).add({"text": text}, {"output": text})
    assert Journal(path).get({"text": text}) == {"output": text}


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_line_truncated_by_a_crash_is_dropped_and_written_again(path, cut):
    journal = Journal(path)
    for name in ("first", "second"):
        journal.add(name, name)
    path.write_bytes(path.read_bytes()[:-cut])
    repaired = Journal(path)
    assert (repaired.get("first"), repaired.get("second")) == ("first", None)
    repaired.add("second", "again")
    assert [json.loads(line)["value"] for line in path.read_text().splitlines()] == [
        "first",
        "again",
    ]


def test_an_entry_is_on_disk_as_soon_as_it_is_added(path):
    program = f"""
import os
from pathlib import Path
from mergegrid.study.runtime.journal import Journal
Journal(Path({str(path)!r})).add("key", 1)
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert Journal(path).get("key") == 1


@pytest.mark.parametrize(
    "line", ["\x00\x00", "no json", "[1]", "3", '{"value": 1}', '{"key": [], "value": 1}', ""]
)
def test_a_line_that_is_not_an_entry_is_removed_and_counted(path, caplog, line):
    for name in ("first", "second"):
        Journal(path).add(name, name)
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(f"{first}{line}\n{second}")
    repaired = Journal(path)
    assert (repaired.get("first"), repaired.get("second")) == ("first", "second")
    assert path.read_text() == first + second
    (record,) = caplog.records
    assert record.getMessage().startswith(f"1 of 3 lines of {path} are damaged")
    Journal(path)
    assert len(caplog.records) == 1


def test_zeros_left_by_a_power_cut_cost_only_the_lines_they_cover(path):
    for name in ("first", "second", "third"):
        Journal(path).add(name, name)
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * len(lines[1]) + lines[2] + b"\0" * 512)
    repaired = Journal(path)
    assert [repaired.get(name) for name in ("first", "second", "third")] == ["first", None, None]
    for name in ("second", "third"):
        repaired.add(name, name)
    assert path.read_bytes() == data


def test_a_flipped_bit_never_changes_a_value(path):
    Journal(path).add(QUESTION, {"output": "5", "tokens": 7})
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert Journal(path).get(QUESTION) in (None, {"output": "5", "tokens": 7})


def test_lines_without_a_checksum_are_accepted(path):
    Journal(path).add(QUESTION, 1)
    entry = json.loads(path.read_text())
    assert len(entry.pop("sum")) == 16
    path.write_text(json.dumps(entry) + "\n")
    assert Journal(path).get(QUESTION) == 1
