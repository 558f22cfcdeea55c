"""A copy of the project's workflow that tests may run and change."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PARTS = ["Snakefile", "workflow", "resources", "profiles", "config", "environment.yml"]


class Project:
    """A copy of the project's workflow in a folder of its own."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.config = folder, config
        self.environment: dict[str, str] = {}
        folder.mkdir(parents=True)
        for part in PARTS:
            copy = shutil.copytree if (REPOSITORY / part).is_dir() else shutil.copy2
            copy(REPOSITORY / part, folder / part)

    @classmethod
    def open(cls, folder: Path, config: str) -> "Project":
        """A project that is there already."""
        project = cls.__new__(cls)
        project.folder, project.config, project.environment = folder, config, {}
        return project

    def copy(self, folder: Path) -> "Project":
        """A copy with the results and their times: a run makes only what a changed study adds.

        Weights are hard links, which costs neither time nor disk; jobs replace them as wholes.
        A test that changes one removes it first.
        """

        def place(source: str, target: str) -> None:
            copy_file = os.link if source.endswith(".safetensors") else shutil.copy2
            copy_file(source, target)

        shutil.copytree(self.folder, folder, symlinks=True, copy_function=place)
        return Project.open(folder, self.config)

    def copy_package(self) -> Path:
        """Give the project a copy of the library, which tests may change; its folder."""
        place = self.folder / "library"
        shutil.copytree(REPOSITORY / "src", place)
        self.environment["PYTHONPATH"] = str(place)
        return place

    def snakemake(
        self,
        *arguments: str,
        check: bool = True,
        named: bool = True,
        python: str | Path = sys.executable,
    ) -> str:
        """Run Snakemake; what it printed, standard error included."""
        config = ["--configfile", self.config] if named else []
        command = ["snakemake", *config, *arguments]
        result = subprocess.run(
            [python, "-m", *command],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
            check=False,
        )
        assert not check or result.returncode == 0, result.stdout
        return result.stdout

    def full_log(self) -> str:
        """Everything that Snakemake logged in its last run here, whatever it printed."""
        return max((self.folder / ".snakemake" / "log").glob("*.snakemake.log")).read_text()

    def planned(self, named: bool = True) -> Counter[str]:
        """How many jobs of each rule a run would start now."""
        return job_counts(self.snakemake("--dry-run", named=named))

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a piece of a file that must be there."""
        path = self.folder / name
        text = path.read_text()
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new))


def job_counts(printed: str) -> Counter[str]:
    """The table of job counts in what a dry run printed."""
    lines = printed.splitlines()
    if not any(line.startswith("total ") for line in lines):
        assert "Nothing to be done" in printed, printed
        return Counter()
    start = max(index for index, line in enumerate(lines) if line.startswith("job "))
    counts: Counter[str] = Counter()
    for line in lines[start + 2 :]:
        rule, _, count = line.partition(" ")
        if rule == "total":
            break
        counts[rule] = int(count)
    return counts
