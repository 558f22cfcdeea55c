"""The tiny study, undisturbed and to be disturbed, and a table of what came of the faults."""

import os
import random
import shutil
import time

import pytest
from faulty import SEED, TRIES, Study
from small_models import family

OUTCOMES = pytest.StashKey[dict[str, list[str]]]()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return family(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def whole(models, tmp_path_factory):
    """The study undisturbed: its digests, and the seconds it took."""
    study = Study(tmp_path_factory.mktemp("whole") / "project", models)
    began = time.monotonic()
    study.finish()
    study.seconds = time.monotonic() - began  # type: ignore[attr-defined]
    return study


@pytest.fixture
def study(models, tmp_path):
    """The study, not run yet."""
    return Study(tmp_path / "project", models)


@pytest.fixture
def ready(whole, models, tmp_path):
    """The study, run to its end."""
    study = Study(tmp_path / "project", models)
    for part in ("results", "logs", ".snakemake", "cache"):
        shutil.copytree(whole.folder / part, study.folder / part, symlinks=True)
    # Copies are newer than what they were made from; Snakemake goes by the order of times.
    for path in sorted(whole.folder.rglob("*")):
        place = study.folder / path.relative_to(whole.folder)
        if place.exists() and path.is_file():
            stat = path.stat()
            os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return study


@pytest.fixture
def chance(request):
    """Random moments, the same for a seed: FAULT_SEED."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def record(request):
    """Note the outcome of one try of a fault for the table."""

    def note(fault: str, outcome: str) -> None:
        request.config.stash.setdefault(OUTCOMES, {}).setdefault(fault, []).append(outcome)

    return note


def pytest_terminal_summary(terminalreporter, config):
    outcomes = config.stash.get(OUTCOMES, {})
    if not outcomes:
        return
    terminalreporter.section(f"faults (FAULT_SEED={SEED}, FAULT_TRIES={TRIES})")
    for fault, tries in outcomes.items():
        counts = {outcome: tries.count(outcome) for outcome in dict.fromkeys(tries)}
        said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        terminalreporter.write_line(f"{fault:48} {len(tries):3} tries: {said}")
