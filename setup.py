"""Puts the project's workflow into the wheel, and links that work on PyPI into its description.

Everything else is in pyproject.toml.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

#: Files and folders that a study needs besides the library, laid out as in a clone.
PARTS = ("Snakefile", "environment.yml", "workflow", "profiles", "resources", "config")


def description(readme: str, version: str, repository: str | None) -> str:
    """Return the README with links that work outside of the repository.

    Args:
        repository: address of the repository on GitHub (`Repository` below `project.urls` in
            pyproject.toml). Without one, links to files become their text and pictures are left
            out.
    """

    def replaced(link: re.Match[str]) -> str:
        picture, text, path = link.groups()
        if repository is None:
            return "" if picture else text
        view = "raw" if picture else "blob"
        return f"{picture}[{text}]({repository.rstrip('/')}/{view}/v{version}/{path})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)", replaced, readme)


class WithDescription(Distribution):
    """A distribution whose description is that of `description`."""

    def parse_config_files(self, *arguments: Any, **named: Any) -> None:
        """Read pyproject.toml as usual, then change the links of the description."""
        super().parse_config_files(*arguments, **named)
        about = self.metadata
        repository = (about.project_urls or {}).get("Repository")
        about.long_description = description(about.long_description, about.version, repository)


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
    setup(cmdclass={"build_py": BuildWithProjectFiles}, distclass=WithDescription)
