"""The project's own files, Snakefile and workflow included, in a clone or in an installed package.

setup.py copies them into the package that a wheel installs, with the same layout as in a clone.
"""

from pathlib import Path

from mergegrid.errors import ConfigError

#: Folder of the files in an installed package.
PACKAGED = "project_files"
_PACKAGE = Path(__file__).parents[1]


def project_folder() -> Path:
    """The folder with Snakefile, workflow/, profiles/, resources/ and config/.

    Raises:
        ConfigError: the package was built without them.
    """
    for folder in (_PACKAGE / PACKAGED, _PACKAGE.parents[2]):
        if (folder / "workflow" / "Snakefile").is_file():
            return folder
    raise ConfigError(
        f"{_PACKAGE} has no workflow, because the package was built without setup.py; install a "
        "released wheel, or run in a clone"
    )


def shipped_study(name: str) -> Path | None:
    """The configuration file of a study that the project ships, such as `smoke`; None for others.

    `quickstart` is `config.yaml`.
    """
    file = "config" if name == "quickstart" else name
    path = project_folder() / "config" / f"{file}.yaml"
    return path if path.is_file() else None


def shipped_studies() -> list[str]:
    """Names of the studies that the project ships."""
    names = sorted(path.stem for path in (project_folder() / "config").glob("*.yaml"))
    return ["quickstart", *(name for name in names if name != "config")]
