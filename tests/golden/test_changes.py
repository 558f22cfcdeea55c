"""Golden tests notice a change of one number: they are run on an edited copy of the package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mergegrid

ROOT = Path(__file__).parents[2]
TEST = "test_numbers_change_only_when_the_version_of_their_stage_is_raised"
#: By stage: a module, and what is replaced there.
CHANGES = {
    "merge": ("sparsifiers/dare.py", "inverse(expert.rate)", "inverse(expert.rate / 2)"),
    "grade_gsm8k": (
        "study/grading/answers/numbers.py",
        "number[1] == expected",
        "number[1] >= expected",
    ),
    "costs": ("study/reporting/costs.py", "/ 3600", "/ 3601"),
}


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What pytest prints for these stages, and one more, with all changes made."""
    package = tmp_path_factory.mktemp("edited") / "mergegrid"
    # With compiled files: the merging loops take long to compile.
    shutil.copytree(Path(mergegrid.__file__).parent, package)
    for module, old, new in CHANGES.values():
        text = (package / module).read_text(encoding="utf-8")
        assert old in text, f"{module} no longer has {old!r}: change something else there"
        (package / module).write_text(text.replace(old, new), encoding="utf-8")
    nodes = [
        f"tests/golden/test_golden.py::{TEST}[{stage}]"
        for stage in (*CHANGES, "prepare_instructions")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *nodes],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(package.parent), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("stage", CHANGES)
def test_a_changed_number_fails_and_names_stage_version_and_module(stage, printed):
    assert f"the numbers of stage {stage} changed under version" in printed
    assert f"raise STAGE_VERSIONS['{stage}'] in src/mergegrid/" in printed


def test_stages_that_were_not_changed_pass(printed):
    assert f"{len(CHANGES)} failed, 1 passed" in printed
