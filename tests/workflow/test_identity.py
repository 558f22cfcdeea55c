"""What makes results of a finished study stale: changed numbers, and no changed words."""

import os
import re
import subprocess
import tomllib
from collections import Counter

import pytest
from project import REPOSITORY
from test_smoke import REPORT, SWEPT, TABLES

pytestmark = pytest.mark.workflow

DELTA_TABLES = 2
DELTA_FIGURES = 2


@pytest.fixture
def study(smoke_copy):
    """The finished smoke study with a copy of the library, for a test to change."""
    smoke_copy.library = smoke_copy.copy_package()
    return smoke_copy


def edit(project, module, pattern, replacement):
    path = project.library / "mergegrid" / module
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
    assert count, f"{pattern} is not in {module}"
    path.write_text(text)


def test_the_copied_library_is_the_one_that_runs(study):
    edit(study, "stages.py", "^STAGES", 'raise SystemExit("the copy")\n\n\nSTAGES')
    assert "the copy" in study.snakemake("--dry-run", check=False)


def test_a_reworded_message_docstring_log_line_or_card_runs_nothing(study):
    edit(study, "checkpoints/sources/hub.py", '"""', '"""Reworded. ')
    edit(study, "study/finetuning/training.py", "epoch %d of %d", "finished epoch %d of %d")
    edit(study, "checkpoints/cards.py", "Merged with mergegrid", "Made with mergegrid")
    edit(study, "errors.py", '"""', '"""Reworded. ')
    edit(study, "study/encoders/sweep.py", "recipes, %d to score", "recipes, of which %d to score")
    assert study.planned() == Counter()


def test_code_that_moves_runs_nothing(study):
    for module in ("engine/masks.py", "study/finetuning/classifier.py", "kernels/loops.py"):
        path = study.library / "mergegrid" / module
        path.write_text(path.read_text() + "\n\nMOVED = 1\n")
    assert study.planned() == Counter()


def test_upgraded_libraries_run_nothing(study):
    for library in ("torch", "transformers", "numpy", "numba", "snakemake"):
        folder = study.library / f"{library}-99.0.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {library}\nVersion: 99.0.1\n"
        )
    assert study.planned() == Counter()


@pytest.mark.parametrize(
    ("module", "stage", "runs"),
    [
        ("study/reporting/figures.py", "figures", {"figure": 6, "all": 1}),
        ("study/reporting/catalogue.py", "tables", {"table": len(TABLES), "all": 1}),
        ("study/reporting/costs.py", "costs", {"costs": 1, "findings_text": 1, "all": 1}),
        ("study/scoring/comparisons.py", "comparisons", {"comparisons": 1, "table": 2, "all": 1}),
        (
            "study/scoring/ranking.py",
            "ranking",
            {"ranking": 1, "table": 1, "figure": 1, "all": 1},
        ),
        (
            "study/scoring/findings.py",
            "findings",
            {"findings": 1, "findings_text": 1, "table": 1, "all": 1},
        ),
        ("study/scoring/choice.py", "select", {"merges": 1, **REPORT}),
        ("study/encoders/task_scorer.py", "evaluate_encoder", {"sweep": 2, "merges": 1, **SWEPT}),
        ("engine/engine.py", "merge", {"sweep": 2, "merges": 1, **SWEPT}),
        (
            "delta_reports/report.py",
            "deltas",
            {
                **{"deltas": 2, "table": DELTA_TABLES, "figure": DELTA_FIGURES, "costs": 1},
                **{"findings_text": 1, "all": 1},
            },
        ),
        (
            "study/finetuning/classifier.py",
            "finetune_encoder",
            {
                "expert": 2,
                "deltas": 2,
                "sweep": 2,
                "merges": 1,
                **SWEPT,
                "table": len(TABLES) - 1,  # All but that of the sources.
                "figure": 6,
            },
        ),
        ("study/finetuning/decoder.py", "finetune_decoder", {}),
        ("study/model_statistics/gather.py", "statistics", {}),
        ("study/grading/graders/__init__.py", "grade_math", {}),
    ],
)
def test_a_raised_stage_version_runs_that_stage_and_what_depends_on_it(study, module, stage, runs):
    edit(study, module, f'"{stage}": (\\d+)', f'"{stage}": 99')
    assert study.planned() == runs


def test_raising_the_first_stage_runs_everything(study, project):
    everything = project("config/smoke.yaml").planned()
    edit(study, "checkpoints/sources/fetch.py", '"fetch": (\\d+)', '"fetch": 99')
    assert study.planned() == everything


def test_another_minor_version_of_python_runs_nothing(study, tmp_path):
    """In an environment with Snakemake and the core alone, under another Python."""
    python = os.environ.get("OTHER_PYTHON")
    if python is None:
        pytest.skip("OTHER_PYTHON does not name another Python, from 3.12 on")
    environment = tmp_path / "environment"
    subprocess.run([python, "-m", "venv", environment], check=True)
    command = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
    command += ["--constraint", REPOSITORY / "constraints.txt"]
    core = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    subprocess.run([*command, *core, "snakemake"], check=True)
    printed = study.snakemake("--dry-run", python=environment / "bin" / "python")
    assert "Nothing to be done" in printed
