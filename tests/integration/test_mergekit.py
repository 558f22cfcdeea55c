"""mergekit files merge as mergekit merges them; its Python is named by MERGEKIT_PYTHON."""

import os
import re
import shlex
from pathlib import Path
from textwrap import dedent

import mergekit_cases
import pytest
import yaml
from mergekit_cases import CASES, LENGTHS, LIMITS, at_float32, compare, length_ratio

from mergegrid import open_model

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return mergekit_cases.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def by_mergekit(models, tmp_path_factory):
    """Folders of what mergekit makes of all configurations that mergegrid reads."""
    python = os.environ.get("MERGEKIT_PYTHON")
    if python is None:
        pytest.skip(
            "MERGEKIT_PYTHON is not set; set it to a Python that has mergekit, "
            "as `pip install torch==2.13.0 mergekit==0.1.5` makes one"
        )
    folder = tmp_path_factory.mktemp("mergekit")
    jobs = {
        folder / str(number): at_float32(dedent(case.config), models)
        for number, case in enumerate(CASES)
        if not case.refused
    }
    errors = mergekit_cases.run_mergekit(python, jobs)
    assert set(errors.values()) == {None}
    return folder


def merged(run, folder, case, models):
    """Merge by a configuration as it is, in float32; the outcome of the command."""
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(at_float32(dedent(case.config), models)))
    options = ["--ignore-unused"] if case.ignore_unused else []
    return run("merge", path, folder / "out", *options)


@pytest.mark.parametrize(
    ("number", "case"),
    [pair for pair in enumerate(CASES) if LIMITS.get(pair[1].expected)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_model_is_mergekit_s(number, case, models, by_mergekit, run, tmp_path):
    outcome = merged(run, tmp_path, case, models)
    assert outcome.code == 0, outcome.err
    limit, elements = LIMITS[case.expected]
    found = compare(open_model(tmp_path / "out"), open_model(by_mergekit / str(number)), limit)
    assert found.beyond <= elements, found


@pytest.mark.parametrize(
    ("number", "case"),
    [pair for pair in enumerate(CASES) if pair[1].expected in LENGTHS],
    ids=lambda value: getattr(value, "name", ""),
)
def test_with_random_masks_the_merged_delta_is_as_long_as_mergekit_s(
    number, case, models, by_mergekit, run, tmp_path
):
    outcome = merged(run, tmp_path, case, models)
    assert outcome.code == 0, outcome.err
    folders = (tmp_path / "out", by_mergekit / str(number), models / "base")
    assert abs(length_ratio(*map(open_model, folders)) - 1) < LENGTHS[case.expected]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.refused], ids=lambda case: case.name
)
def test_a_file_that_cannot_be_merged_is_refused(case, models, run, tmp_path):
    path = tmp_path / "config.yml"
    path.write_text(dedent(case.config))
    outcome = run("merge", path, tmp_path / "out")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith(f"error: {path}, line ")
    assert case.expected in outcome.err
    assert {entry.name for entry in tmp_path.iterdir()} == {"config.yml"}


def test_convert_prints_a_merge_file_with_the_same_model(models, run, tmp_path):
    case = next(case for case in CASES if "chat vector" in case.name)
    assert merged(run, tmp_path, case, models).code == 0
    printed = run("convert", tmp_path / "config.yml")
    (tmp_path / "merge.yaml").write_text(printed.out)
    assert run("merge", tmp_path / "merge.yaml", tmp_path / "again").code == 0
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()


def test_notes_are_in_the_log_the_manifest_and_the_card(models, run, tmp_path):
    case = next(case for case in CASES if "no base" in case.name)
    outcome = merged(run, tmp_path, case, models)
    note = "config and tokenizer are those of the first model"
    assert note in outcome.err
    for name in ("manifest.json", "README.md"):
        assert note in (tmp_path / "out" / name).read_text()
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["base"] == "a"


def test_convert_refuses_a_merge_file(run, tmp_path):
    (tmp_path / "merge.yaml").write_text("base: base\nexperts: {a: a}\n")
    outcome = run("convert", tmp_path / "merge.yaml")
    assert outcome.code == 2
    assert "is not a mergekit file" in outcome.err


def test_the_commands_of_the_guide_work(models, run, tmp_path, monkeypatch):
    guide = (Path(__file__).parents[2] / "docs" / "mergekit.md").read_text()
    block = re.search(r"```sh\n(mergegrid .*?)```", guide, re.DOTALL)[1]
    case = next(case for case in CASES if "gradient-slerp" in case.name)
    (tmp_path / "config.yml").write_text(yaml.safe_dump(at_float32(dedent(case.config), models)))
    monkeypatch.chdir(tmp_path)
    for line in block.splitlines():
        command, _, file = line.partition("#")[0].partition(">")
        outcome = run(*shlex.split(command)[1:])
        assert outcome.code == 0, outcome.err
        if file:
            (tmp_path / file.strip()).write_text(outcome.out)
    assert run("merge", "merge.yaml", "again").code == 0
    weights = "model.safetensors"
    assert (tmp_path / "merged" / weights).read_bytes() == (
        tmp_path / "again" / weights
    ).read_bytes()
