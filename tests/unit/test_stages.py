"""Stage versions: read from the code of the stages, and libraries recorded beside them."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mergegrid.stages import STAGES, library_versions, stage_versions, union_of_versions
from mergegrid.study.schema.benchmarks import BenchmarkKind

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_version_in_its_module(stage):
    (version,) = stage_versions(stage).values()
    assert isinstance(version, int)
    assert version >= 1


def test_a_module_with_versions_is_listed_and_holds_no_others():
    package = ROOT / "src" / "mergegrid"
    modules = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^STAGE_VERSIONS = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert modules == {stage.module for stage in STAGES.values()}


def test_every_kind_of_benchmark_has_a_grader_with_a_version():
    graders = {stage.removeprefix("grade_") for stage in STAGES if stage.startswith("grade_")}
    assert graders == set(BenchmarkKind.__args__)


def test_every_stage_is_asked_for_by_a_rule():
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    unused = [each for each in STAGES if f'"{each}"' not in rules and "grade_" not in each]
    assert unused == []
    assert 'f"grade_{' in rules


def test_every_stage_and_its_module_are_in_the_docs():
    page = (ROOT / "docs" / "reproducibility.md").read_text()
    for name, stage in STAGES.items():
        assert f"`{name}`" in page
        assert stage.module.rpartition("/")[2] in page


def test_versions_are_read_without_importing_torch():
    code = (
        "import sys; from mergegrid.stages import STAGES, stage_versions; stage_versions(*STAGES);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_libraries_are_those_installed_without_the_name_of_a_build():
    found = library_versions("evaluate_encoder")
    assert found["python"] == (platform.python_version(),)
    assert re.fullmatch(r"[0-9.]+", found["torch"][0])
    assert "matplotlib" not in found


def test_libraries_of_several_records_keep_every_version_once():
    parts = [{"torch": ["2.13.0"]}, {"torch": ["2.14.0", "2.13.0"], "python": ["3.12.1"]}]
    assert union_of_versions(parts) == {"python": ("3.12.1",), "torch": ("2.13.0", "2.14.0")}
