"""Which tests are slow, and in what order files of tests start.

`make check` leaves slow tests out: what runs studies, trains models, starts engines or programs by
the dozen, or draws figures. Whole folders and files are named here; a single slow test is marked
where it stands, by `@pytest.mark.slow`.
"""

from pathlib import Path

TESTS = Path(__file__).parents[1]
#: Folders and files below `tests`.
SLOW = (
    "faults",
    "gpu",
    "integration",
    "slurm",
    "workflow",
    "golden/test_changes.py",
    "unit/checkpoints/test_sources.py",
    "unit/study/finetuning",
    "unit/study/grading/judges",
    "unit/study/grading/programs/test_canonical.py",
    "unit/study/grading/programs/test_openai_parity.py",
    "unit/study/grading/programs/test_hostile.py",
    "unit/study/grading/programs/test_sandbox.py",
    "unit/study/grading/test_graders.py",
    "unit/study/live/test_logger.py",
    "unit/study/reporting/test_figures.py",
    "unit/study/runtime/test_gpu_lease.py",
    "unit/study/runtime/test_snakemake_compat.py",
    "unit/test_job.py",
    "unit/test_plugins.py",
    "unit/test_readme.py",
)
#: Fixtures that train a model.
TRAINED = {"request_for_praise"}
#: Files that take minutes, the longest first. Where tests run in several processes, each takes
#: whole files; one that began such a file last would keep the others waiting.
FIRST = (
    "integration/test_vllm.py",
    "workflow/test_smoke.py",
    "workflow/test_decoders.py",
    "faults/test_quick.py",
)


def is_slow(path: Path, fixtures: set[str]) -> bool:
    """Whether a test is slow for where it is, or for what it takes."""
    name = path.relative_to(TESTS).as_posix()
    return bool(TRAINED & fixtures) or any(f"{name}/".startswith(f"{slow}/") for slow in SLOW)


def turn(path: Path) -> int:
    """A number by which tests are sorted: long files, then all slow folders, then the others."""
    name = path.relative_to(TESTS).as_posix()
    return FIRST.index(name) if name in FIRST else len(FIRST) + (not is_slow(path, set()))
