"""Start Snakemake on the project's workflow, from wherever it is installed."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergegrid.errors import ConfigError
from mergegrid.extras import require
from mergegrid.study.runtime.project_files import (
    project_folder,
    shipped_studies,
    shipped_study,
)

#: Studies of a working folder, where none is named.
DEFAULTS = ("study.yaml", "config/config.yaml")
#: Options of Snakemake by which a run says on how many cores, or where, jobs run.
_PLACES = ("--cores", "-c", "--jobs", "-j", "--executor", "-e", "--profile")


@dataclass(frozen=True)
class RunOptions:
    """Options of `mergegrid run`."""

    cores: str | None = None
    """Number of cores, or `all`."""
    resources: Sequence[str] = ()
    """Limits such as `gpu=8`."""
    profile: str | None = None
    """A profile of Snakemake, such as `slurm`."""
    snakemake: Sequence[str] = ()
    """Further options of Snakemake."""


def default_study() -> Path:
    """The study of the working folder.

    Raises:
        ConfigError: there is none.
    """
    for name in DEFAULTS:
        if Path(name).is_file():
            return Path(name)
    raise ConfigError(
        f"no study here: {Path.cwd()} has neither {' nor '.join(DEFAULTS)}; name a file, create "
        f"a study with `mergegrid init`, or run one of {', '.join(shipped_studies())}"
    )


def study_files(names: Sequence[str]) -> list[Path]:
    """The configuration files that texts name; without any, the study of the working folder.

    Raises:
        ConfigError: one does not exist.
    """
    return [study_file(name) for name in names] or [default_study()]


def study_file(text: str) -> Path:
    """The configuration file that a text names: a file, or a study that the project ships.

    Raises:
        ConfigError: there is none.
    """
    if Path(text).is_file():
        return Path(text)
    if (shipped := shipped_study(text)) is not None:
        return shipped
    raise ConfigError(
        f"there is no file {Path(text).resolve()}; correct the path, or use one of "
        f"{', '.join(shipped_studies())}"
    )


def snakemake_command(study: Sequence[Path], options: RunOptions) -> list[str]:
    """The command that runs a study, given by its configuration files."""
    root = project_folder()
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--configfile", *map(str, study)]
    if options.profile is not None:
        command += ["--profile", _profile(options.profile, root)]
    placed = options.profile or any(word.split("=")[0] in _PLACES for word in options.snakemake)
    if options.cores is not None or not placed:
        command += ["--cores", options.cores or "all"]
    if options.resources:
        command += ["--resources", *options.resources]
    return [*command, *options.snakemake]


def run_study(names: Sequence[str], options: RunOptions) -> None:
    """Run a study; the process becomes Snakemake, and does not return.

    Args:
        names: see `study_files`.
        options: options of the run.

    Raises:
        ConfigError: there is no such study.
        MissingLibraryError: Snakemake is not installed.
    """
    study = study_files(names)
    require("snakemake")
    command = snakemake_command(study, options)
    typed = shlex.join(["mergegrid", *sys.argv[1:]])
    # For the text at the end of the run.
    variables = {
        "MERGEGRID_COMMAND": typed,
        "MERGEGRID_STUDY": shlex.join(names or map(str, study)),
    }
    os.execve(command[0], command, {**os.environ, **variables})


def _profile(text: str, root: Path) -> str:
    """A profile of the working folder, else one that the project ships, else Snakemake's own."""
    for folder in (Path(text), Path("profiles") / text, root / "profiles" / text):
        if folder.is_dir():
            return str(folder)
    return text
