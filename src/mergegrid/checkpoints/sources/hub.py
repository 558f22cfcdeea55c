"""Repositories of the Hugging Face hub, kept in the hub library's own cache.

    model = pin(origin, "model")    # resolves the revision to a commit and lists the files to take
    model.missing                   # names and sizes of those that are not in the cache
    download(model, store)          # downloads and verifies them

The library's settings apply: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. Only
one weight format of a repository is downloaded: bert-base-uncased is 440 MB instead of 3 GB. A
commit in the cache is used without contacting the hub again. A cached file that is truncated, or
whose SHA-256 differs from the hub's, is downloaded again.
"""

import glob
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from httpx2 import HTTPError
from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from mergegrid.checkpoints.disk import check_free_space
from mergegrid.checkpoints.front_matter import front_matter, texts
from mergegrid.checkpoints.sources import cache
from mergegrid.checkpoints.sources.cache import LocalFiles
from mergegrid.checkpoints.sources.hub_errors import explained
from mergegrid.checkpoints.sources.hub_files import is_weights, nothing, patterns
from mergegrid.checkpoints.sources.source import HubOrigin
from mergegrid.errors import SourceError

_log = logging.getLogger(__name__)
_SHA256 = re.compile("[0-9a-f]{64}")
Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class HubFiles:
    """A model or data set at one commit of its repository: the files that are used of it."""

    origin: HubOrigin
    """As written, with any revision."""
    kind: Kind
    commit: str
    sizes: dict[str, int]
    """Bytes of the files by name in the repository."""

    def __str__(self) -> str:
        return str(replace(self.origin, revision=self.commit)).removeprefix("hub:")

    @property
    def snapshot(self) -> Path:
        """Where the cache keeps the files of the commit."""
        folder = f"{self.kind}s--{self.origin.repo.replace('/', '--')}"
        return cache_folder() / folder / "snapshots" / self.commit

    @property
    def path(self) -> Path:
        """Where the cache keeps the model or data set, a folder or a single file."""
        return self.snapshot / (self.origin.subfolder or "")

    @property
    def missing(self) -> dict[str, int]:
        """Bytes of the files that the cache lacks or has with another size, by name."""
        names = _damaged(self.snapshot, self.sizes)
        return {name: self.sizes[name] for name in names}

    @property
    def pickled(self) -> bool:
        """Whether the weights are pickled (`.bin`), so that their tensors have no header."""
        return any(name.endswith(".bin") for name in self.weights)

    @property
    def weights(self) -> list[str]:
        """Names of the weight files."""
        return [name for name in self.sizes if is_weights(name)]


def cache_folder() -> Path:
    """The folder of the hub's cache."""
    return Path(constants.HF_HUB_CACHE).resolve()


def find(origin: HubOrigin, kind: Kind, store: Path) -> LocalFiles:
    """The folder or file of a repository in the hub's cache, downloaded if missing.

    Raises:
        SourceError: the repository, revision or subfolder does not exist or is not accessible, the
            hub is unreachable and the cache lacks the files.
        ConfigError: the disk is too small.
    """
    return download(pin(origin, kind), store)


def pin(origin: HubOrigin, kind: Kind) -> HubFiles:
    """Resolve the revision of a repository to a commit and select the files to use.

    Raises:
        SourceError: the repository, revision or subfolder does not exist or is not accessible, or
            the hub is unreachable and the cache does not know the revision.
    """
    with explained(origin, kind):
        commit = HfApi().resolve_revision(origin.repo, repo_type=kind, revision=origin.revision)
        sizes = _sizes(origin.repo, kind, commit.resolved)
        names = patterns(list(sizes), kind, origin.subfolder)
        if not names:
            raise SourceError(nothing(origin, kind, list(sizes)))
        return HubFiles(origin, kind, commit.resolved, {name: sizes[name] for name in names})


def download(files: HubFiles, store: Path) -> LocalFiles:
    """Download the files that the cache lacks, and verify the checksums of all.

    Raises:
        SourceError: the hub is unreachable, or a checksum is wrong.
        ConfigError: the disk is too small.
    """
    with explained(files.origin, files.kind):
        if files.missing:
            planned = planned_downloads(files)
            check_free_space({}, {cache_folder(): sum(planned.values())})
            size = sum(planned.values()) / 1e9
            _log.info("downloading %s: %d files, %.3g GB", files, len(planned), size)
        snapshot = bring(files, files.sizes)
        local = _measure(files, store)
        if changed := _changed(local):
            for blob in changed:
                _log.warning("%s does not match its checksum; downloading it again", blob)
                blob.unlink(missing_ok=True)
            bring(files, files.sizes)
            local = _measure(files, store)
    if changed := _changed(local):
        raise SourceError(
            f"{changed[0]} does not have the checksum in its name, even after a new download; "
            f"check the disk of {constants.HF_HUB_CACHE}"
        )
    return replace(local, resolved=files.commit, licence=_licence(snapshot))


def _measure(files: HubFiles, store: Path) -> LocalFiles:
    below = f"{files.origin.subfolder}/" if files.origin.subfolder else ""
    inside = [name.removeprefix(below) for name in files.sizes if name.startswith(below)]
    return cache.measure(files.path, inside, store)


def _changed(local: LocalFiles) -> list[Path]:
    """Files whose checksum differs from the hub's.

    The hub's cache names large files by their SHA-256. Small files are named by their git hash and
    cannot be checked.
    """
    folder = local.path.parent if local.path.is_file() else local.path
    blobs = {(folder / name).resolve(): checksum for name, checksum in local.files.items()}
    return [
        blob
        for blob, checksum in blobs.items()
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) and blob.name != checksum
    ]


def _sizes(repo: str, kind: str, commit: str) -> dict[str, int]:
    """Sizes of all files in a commit, by name."""
    try:
        tree = get_cached_repo_tree(repo, repo_type=kind, revision=commit)
        return {file.path: file.size for file in tree}
    except CachedRepoTreeNotFoundError:
        pass
    try:
        listed = HfApi().list_repo_tree(repo, repo_type=kind, revision=commit, recursive=True)
        return {file.path: file.size for file in listed if isinstance(file, RepoFile)}
    except (HTTPError, OSError) as unreachable:
        # Caches of huggingface_hub before version 2 have no list of files; use the files in it.
        try:
            folder = Path(
                snapshot_download(repo, repo_type=kind, revision=commit, local_files_only=True)
            )
        except LocalEntryNotFoundError:
            raise unreachable from None
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def planned_downloads(files: HubFiles) -> dict[str, int]:
    """Bytes by name of the files that a download would transfer.

    Files that the cache has of another commit of the repository do not count.

    Raises:
        SourceError: the hub is unreachable or denies access.
    """
    with explained(files.origin, files.kind):
        plan = snapshot_download(
            files.origin.repo,
            repo_type=files.kind,
            revision=files.commit,
            allow_patterns=[glob.escape(name) for name in files.missing],
            dry_run=True,
        )
    names = sorted(file.filename for file in plan if file.will_download)
    return {name: files.sizes[name] for name in names}


def bring(files: HubFiles, names: Collection[str]) -> Path:
    """Download the named files if the cache lacks them; returns the folder of the commit.

    Raises:
        SourceError: a file has another size than the hub states.
        Exception: see `hub_errors.explained`.
    """
    repo, commit = files.origin.repo, files.commit
    sizes = {name: files.sizes[name] for name in names}
    exact = [glob.escape(name) for name in sizes]
    try:
        folder = Path(
            snapshot_download(
                repo,
                repo_type=files.kind,
                revision=commit,
                allow_patterns=exact,
                local_files_only=True,
            )
        )
        damaged = _damaged(folder, sizes)
        if not damaged:
            return folder
        for name in damaged:
            if (path := (folder / name).resolve()).is_file():
                _log.warning("%s (%s of %s) is truncated; downloading it again", path, name, repo)
                path.unlink()
    except LocalEntryNotFoundError:
        pass
    folder = Path(
        snapshot_download(repo, repo_type=files.kind, revision=commit, allow_patterns=exact)
    )
    if damaged := _damaged(folder, sizes):
        path = (folder / damaged[0]).resolve()
        size = path.stat().st_size if path.is_file() else 0
        raise SourceError(
            f"{path} ({damaged[0]} of {repo}) has {size} bytes instead of {sizes[damaged[0]]}; "
            "delete it and rerun"
        )
    return folder


def _damaged(folder: Path, sizes: dict[str, int]) -> list[str]:
    """Names of files that are missing or have another size."""
    return [
        name
        for name, size in sizes.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != size
    ]


def _licence(snapshot: Path) -> str | None:
    """The `license:` of a model or data set card, or `license_name:` if that is `other`."""
    front = front_matter(snapshot)
    stated = texts(front.get("license"))
    if stated == ("other",) and front.get("license_name"):
        stated = texts(front["license_name"])
    return ", ".join(stated) or None
