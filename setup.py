"""Puts the project's workflow into the wheel; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: Files and folders that a study needs besides the library, laid out as in a clone.
PARTS = ("Snakefile", "environment.yml", "workflow", "profiles", "resources", "config")


class BuildWithProjectFiles(build_py):
    """Copies the parts beside the library (see `study/runtime/project_files.py`)."""

    def run(self) -> None:
        """Build as usual, then copy; an editable install finds the parts in the clone."""
        super().run()
        if self.editable_mode:
            return
        place = Path(self.build_lib, "mergegrid", "study", "project_files")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        ignored = shutil.ignore_patterns("__pycache__")
        for part in map(Path, PARTS):
            if part.is_dir():
                shutil.copytree(part, place / part, ignore=ignored)
            else:
                shutil.copy(part, place / part)


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildWithProjectFiles})
