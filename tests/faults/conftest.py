"""The tiny study, undisturbed and to be disturbed, and a table of what came of the faults."""

import io
import json
import random
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest
from faulty import SEED, TRIES, Study
from package_index import Index
from small_models import family

from mergegrid.study.tasks.generators.formatting import generate

#: Tests of single faults that are with the module that they hit.
ELSEWHERE = Path(__file__).parent / "elsewhere.txt"
#: Under this name, reports carry a try with its fault: the test may have run in another process.
TRY = "try of a fault"


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return family(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def index():
    """A package index with what one expert learns from."""
    with Index("tiny-1.0.zip", sdist(generate(8, seed=0))).open() as found:
        yield found


def sdist(rows):
    """The package `tiny`: instructions in `data/rows.jsonl`."""
    members = {
        "PKG-INFO": "Name: tiny\nVersion: 1.0\n",
        "data/rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            # A ZipInfo has a fixed date, and so the archive a fixed digest.
            archive.writestr(zipfile.ZipInfo(f"tiny-1.0/{name}"), text)
    return buffer.getvalue()


@pytest.fixture
def make(models, index, tmp_path):
    """The study, not run yet; its results may lie in another folder."""

    def new(results=None):
        return Study(tmp_path / "project", models, index, results)

    return new


@pytest.fixture(scope="session")
def whole(models, index, tmp_path_factory):
    """The study undisturbed."""
    study = Study(tmp_path_factory.mktemp("whole") / "project", models, index)
    study.finish()
    return study


@pytest.fixture
def study(make):
    """The study, not run yet."""
    return make()


@pytest.fixture
def ready(whole, study):
    """The study, run to its end."""
    study.copy_from(whole)
    return study


@pytest.fixture
def chance(request):
    """Random moments, the same for a seed: FAULT_SEED."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def same(request, whole):
    """Compare the results with those of the undisturbed run, and note the try for the table."""

    def compare(fault: str, study: Study, tried: str) -> None:
        found, wanted = study.digests(), whole.digests()
        outcome = f"{tried}: {'same' if found == wanted else 'OTHER'} results"
        request.node.user_properties.append((TRY, (fault, outcome)))
        assert found == wanted

    return compare


def pytest_terminal_summary(terminalreporter):
    outcomes = defaultdict(list)
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in getattr(report, "user_properties", []):
            if name == TRY and report.when == "call":
                outcomes[value[0]].append(value[1])
    if not outcomes:
        return
    write = terminalreporter.write_line
    terminalreporter.section(f"faults (FAULT_SEED={SEED}, FAULT_TRIES={TRIES})")
    for fault, tries in outcomes.items():
        equal = sum(each.endswith(": same results") for each in tries)
        write(f"{fault}: {len(tries)} tries, {equal} with the same results")
        for each in tries:
            write(f"    {each}")
    for name in ELSEWHERE.read_text().split():
        found = {
            outcome: sum(
                report.when == "call" and report.nodeid.partition("[")[0] == name
                for report in terminalreporter.stats.get(outcome, [])
            )
            for outcome in ("passed", "failed")
        }
        if tries := sum(found.values()):
            claim = name.rpartition("::test_")[2].replace("_", " ")
            write(f"{claim}: {tries} tries, {found['passed']} passed")
