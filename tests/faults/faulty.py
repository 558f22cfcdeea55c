"""A tiny study that faults are thrown at."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from package_index import Index
from processes import heed_ctrl_c
from project import Project, job_counts

from mergegrid.hashing import file_digest

SEED = int(os.environ.get("FAULT_SEED", "20231106"))
TRIES = int(os.environ.get("FAULT_TRIES", "1"))
#: Seconds that no run takes, on a busy machine either.
_LONGEST = 900
#: Runs that may end before their moment comes; then another moment is drawn.
_DRAWS = 10
#: The expert that the study trains.
EXPERT = "llama/experts/trained/seed~0"
#: Files that say when or how long.
_OF_THE_RUN = {".snakemake_timestamp"}


class Study:
    """The tiny study in a copy of the project."""

    config = "config/tiny.yaml"
    target = "results/tiny/scores.parquet"

    def __init__(
        self, folder: Path, models: Path, index: Index, results: Path | None = None
    ) -> None:
        self.project = Project(folder, self.config)
        self.folder, self.index = folder, index
        text = (Path(__file__).parent / "tiny.yaml").read_text()
        text = text.replace("SHA256", index.sha256)
        (folder / self.config).write_text(text)
        if results is not None:
            (folder / "results").symlink_to(results)
        self.environment = {
            **os.environ,
            "TINY_MODELS": str(models),
            "MERGEGRID_CACHE": str(folder / "cache"),
            "PIP_INDEX_URL": index.url,
            "PYTHONUNBUFFERED": "1",
        }
        self.starts = 0

    def copy_from(self, other: "Study") -> None:
        """Take over what another study has done."""
        parts = ["results", "logs", ".snakemake", "cache"]
        for part in parts:
            shutil.copytree(
                other.folder / part, self.folder / part, symlinks=True, dirs_exist_ok=True
            )
        # Copies are newer than what they were made from; Snakemake goes by the order of times.
        for path in sorted(other.folder.rglob("*")):
            place = self.folder / path.relative_to(other.folder)
            if path.is_file() and place.is_file():
                stat = path.stat()
                os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def clear(self) -> None:
        """Begin anew."""
        for part in ("results", "logs", "cache"):
            shutil.rmtree(self.folder / part, ignore_errors=True)

    def forget(self, *names: str) -> None:
        """Remove some of the results, so that they are made again."""
        for name in names:
            path = self.results / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def forget_answers(self) -> None:
        """Remove all that is made of the models."""
        self.forget("scores.parquet", "llama/answers", "llama/benchmarks", "llama/records")

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    def start(
        self, before: Callable[[], object] = heed_ctrl_c, **environment: str
    ) -> subprocess.Popen[str]:
        """Begin the run, always by the same command, as leader of a process group."""
        self.starts += 1
        command = ["snakemake", "--cores", "2", "--configfile", self.config]
        command += ["--logger-mergegrid-view", "full"]
        with (self.folder / f"run{self.starts}.txt").open("w") as printed:
            return subprocess.Popen(
                [sys.executable, "-m", *command, "--", self.target],
                cwd=self.folder,
                env={**self.environment, **environment},
                stdout=printed,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=before,
            )

    def printed(self) -> str:
        """What the last run said."""
        return (self.folder / f"run{self.starts}.txt").read_text()

    def finish(self, **environment: str) -> None:
        """Run to the end."""
        process = self.start(**environment)
        try:
            code = process.wait(_LONGEST)
        finally:
            end(process)
        assert code == 0, self.printed()

    def fail(self, **environment: str) -> str:
        """Run into an error that ends it; what was said."""
        process = self.start(**environment)
        try:
            code = process.wait(_LONGEST)
        finally:
            end(process)
        assert code == 1, self.printed()
        return self.printed()

    def jobs_done(self) -> int:
        """Jobs that came to their end in the last run."""
        return self.printed().count("\nFinished jobid: ")

    def digests(self) -> dict[str, str]:
        """All results by name; in journals, the order of lines does not count."""
        found = {}
        for path in sorted(self.results.rglob("*")):
            name = path.relative_to(self.results).as_posix()
            if path.is_file() and path.name not in _OF_THE_RUN and ".damaged/" not in name:
                if path.suffix == ".jsonl":
                    found[name] = "\n".join(sorted(set(path.read_text().splitlines())))
                else:
                    found[name] = file_digest(path)
        return found

    def put_aside(self, name: str) -> str:
        """What is said of results that were damaged."""
        folder = (self.results / name).relative_to(self.folder)
        return f"{folder}.damaged, and the same command rebuilds it"

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


def wait_for(condition, process: subprocess.Popen[str], seconds: float = _LONGEST) -> bool:
    """Wait until something is so; false where the run ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def hit_at_random(
    study: Study,
    chance: random.Random,
    hit: Callable[[Study, subprocess.Popen[str], random.Random], bool],
) -> str:
    """Do some part of a finished study anew, hit at a random moment, and then to the end."""
    for _ in range(_DRAWS):
        start = chance.choice(["nothing", "models", "experts"])
        if start == "nothing":
            study.clear()
        else:
            study.forget_answers()
            if start == "models":
                study.forget(EXPERT)
        moment = _begin_and_hit(study, chance, hit)
        if moment is not None:
            return f"from {start}, {moment}"
    raise AssertionError(f"{_DRAWS} runs ended before they were hit")


def _begin_and_hit(study: Study, chance: random.Random, hit) -> str | None:
    """Run, hit and finish; when that was, None where the run had ended before."""
    process = study.start()
    try:
        if not wait_for(lambda: "\ntotal " in study.printed(), process):
            raise AssertionError(study.printed())
        jobs = sum(job_counts(study.printed()).values())
        share = chance.uniform(0, jobs)
        landed = wait_for(lambda: study.jobs_done() >= int(share), process)
        # Most jobs take longer than that.
        time.sleep((share % 1) * 3)
        landed = landed and process.poll() is None and hit(study, process, chance)
        # A run that ends well was not hit.
        landed = process.wait(_LONGEST) != 0 and landed
    finally:
        end(process)
    done = study.jobs_done()
    study.finish()
    # Two jobs run at once, so no more than two are repeated.
    assert done + study.jobs_done() <= jobs + 2, study.printed()
    return f"after {int(share)} of {jobs} jobs" if landed else None


def damage(path: Path, how: str, chance: random.Random) -> None:
    """Flip a bit, or cut the end, as if nobody had written to the file."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    if how == "cut":
        # So that more goes than the last line break.
        del data[chance.randrange(len(data) // 2) :]
    else:
        # In the second half there are only tensors.
        data[chance.randrange(len(data) // 2, len(data))] ^= 1 << chance.randrange(8)
    # A new file: it may be a link to one of somebody else.
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def end(process: subprocess.Popen[str]) -> None:
    """Kill what a failed test left."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
