"""A tiny study that faults are thrown at."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from project import Project

from mergegrid.provenance import file_digest

SEED = int(os.environ.get("FAULT_SEED", "20231106"))
TRIES = int(os.environ.get("FAULT_TRIES", "1"))
#: Files that say when or how long, or that wait for a rerun.
_OF_THE_RUN = {".snakemake_timestamp"}


class Study:
    """The tiny study in a copy of the project."""

    config = "config/tiny.yaml"
    target = "results/tiny/scores.parquet"

    def __init__(self, folder: Path, models: Path) -> None:
        self.project = Project(folder, self.config)
        self.folder = folder
        shutil.copy(Path(__file__).parent / "tiny.yaml", folder / self.config)
        self.environment = {
            **os.environ,
            "TINY_MODELS": str(models),
            "MERGEGRID_CACHE": str(folder / "cache"),
            "PYTHONUNBUFFERED": "1",
        }
        self.starts = 0

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Begin the run, always by the same command, as leader of a process group."""
        self.starts += 1
        command = ["snakemake", "--cores", "2", "--configfile", self.config]
        with (self.folder / f"run{self.starts}.txt").open("w") as printed:
            return subprocess.Popen(
                [sys.executable, "-m", *command, "--", self.target],
                cwd=self.folder,
                env={**self.environment, **environment},
                stdout=printed,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def printed(self) -> str:
        """What the last run said."""
        return (self.folder / f"run{self.starts}.txt").read_text()

    def finish(self, **environment: str) -> None:
        """Run to the end."""
        process = self.start(**environment)
        assert process.wait(300) == 0, self.printed()

    def fail(self, **environment: str) -> str:
        """Run into an error that ends it; what was said."""
        process = self.start(**environment)
        assert process.wait(300) == 1, self.printed()
        return self.printed()

    def digests(self) -> dict[str, str]:
        """All results by name; in journals, the order of lines does not count."""
        found = {}
        for path in sorted(self.results.rglob("*")):
            if path.is_file() and path.name not in _OF_THE_RUN:
                name = path.relative_to(self.results).as_posix()
                if path.suffix == ".jsonl":
                    found[name] = "\n".join(sorted(set(path.read_text().splitlines())))
                else:
                    found[name] = file_digest(path)
        return found

    def jobs(self, process: subprocess.Popen[str]) -> list[int]:
        """Processes that run a script of the workflow, below this Snakemake."""
        scripts = []
        for child in descendants(process.pid):
            with suppress(OSError):
                arguments = Path(f"/proc/{child}/cmdline").read_text().split("\0")
                if any("/.snakemake/scripts/" in each for each in arguments[1:2]):
                    scripts.append(child)
        return scripts


def descendants(process: int) -> list[int]:
    """The processes below one, children before grandchildren."""
    parents: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents[parent].append(int(stat.parent.name))
    found = parents[process].copy()
    for child in found:
        found.extend(parents[child])
    return found


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 120) -> bool:
    """Wait until something is so; false where the run ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def end(process: subprocess.Popen[str]) -> None:
    """Kill what a failed test left."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
