"""Repositories of the Hugging Face hub, kept in the hub library's own cache.

The library's settings apply: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. Only
one weight format of a repository is downloaded: bert-base-uncased is 440 MB instead of 3 GB. A
commit in the cache is used without contacting the hub again. A cached file that is truncated, or
whose SHA-256 differs from the hub's, is downloaded again.
"""

import glob
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

from httpx2 import HTTPError
from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.hf_api import RepoFile

from mergegrid.checkpoints.front_matter import front_matter, texts
from mergegrid.checkpoints.sources import cache
from mergegrid.checkpoints.sources.cache import LocalFiles
from mergegrid.checkpoints.sources.hub_files import nothing, patterns
from mergegrid.checkpoints.sources.source import HubOrigin
from mergegrid.errors import SourceError

_log = logging.getLogger(__name__)
_SHA256 = re.compile("[0-9a-f]{64}")


def find(origin: HubOrigin, kind: Literal["model", "dataset"], store: Path) -> LocalFiles:
    """The folder or file of a repository in the hub's cache, downloaded if missing.

    Raises:
        SourceError: the repository, revision or subfolder does not exist or is not accessible, the
            hub is unreachable and the cache lacks the files, or the disk is too small.
    """
    try:
        commit = HfApi().resolve_revision(origin.repo, repo_type=kind, revision=origin.revision)
        sizes = _sizes(origin.repo, kind, commit.resolved)
        names = patterns(list(sizes), kind, origin.subfolder)
        if not names:
            raise SourceError(nothing(origin, kind, list(sizes)))
        selected = {name: sizes[name] for name in names}
        snapshot = _snapshot(origin.repo, kind, commit.resolved, selected)
        local = _measure(origin, snapshot, names, store)
        if changed := _changed(local):
            for blob in changed:
                _log.warning("%s does not match its checksum; downloading it again", blob)
                blob.unlink(missing_ok=True)
            snapshot = _snapshot(origin.repo, kind, commit.resolved, selected)
            local = _measure(origin, snapshot, names, store)
    except (HTTPError, OSError, EntryNotFoundError, RevisionResolutionError, ValueError) as error:
        raise SourceError(_explain(origin, kind, error)) from error
    if changed := _changed(local):
        raise SourceError(
            f"{changed[0]} does not have the checksum in its name, even after a new download; "
            f"check the disk of {constants.HF_HUB_CACHE}"
        )
    return replace(local, resolved=commit.resolved, licence=_licence(snapshot))


def _measure(origin: HubOrigin, snapshot: Path, names: list[str], store: Path) -> LocalFiles:
    below = f"{origin.subfolder}/" if origin.subfolder else ""
    inside = [name.removeprefix(below) for name in names if name.startswith(below)]
    return cache.measure(snapshot / (origin.subfolder or ""), inside, store)


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


def _snapshot(repo: str, kind: str, commit: str, sizes: dict[str, int]) -> Path:
    """The folder of a commit, with complete files of the given names and sizes."""
    exact = [glob.escape(name) for name in sizes]
    try:
        folder = Path(
            snapshot_download(
                repo, repo_type=kind, revision=commit, allow_patterns=exact, local_files_only=True
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
    plan = snapshot_download(
        repo, repo_type=kind, revision=commit, allow_patterns=exact, dry_run=True
    )
    missing = [file for file in plan if file.will_download]
    needed = sum(sizes[file.filename] for file in missing)
    check_space(needed, Path(constants.HF_HUB_CACHE))
    if missing:
        _log.info("downloading %s: %d files, %.3g GB", repo, len(missing), needed / 1e9)
    folder = Path(snapshot_download(repo, repo_type=kind, revision=commit, allow_patterns=exact))
    if damaged := _damaged(folder, sizes):
        path = (folder / damaged[0]).resolve()
        size = path.stat().st_size if path.is_file() else 0
        raise SourceError(
            f"{path} ({damaged[0]} of {repo}) has {size} bytes instead of {sizes[damaged[0]]}; "
            "delete it and rerun"
        )
    return folder


def check_space(needed: int, folder: Path) -> None:
    """Check that a disk has enough free space for a download.

    Raises:
        SourceError: it has too little; the message states both sizes.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SourceError(
            f"the download needs {needed / 1e9:.1f} GB, but the disk of {folder} has "
            f"{free / 1e9:.1f} GB free; free some space or set HF_HOME to a folder on another disk"
        )


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


def _explain(origin: HubOrigin, kind: str, error: Exception) -> str:
    """Describe an error of the hub or its library in one line, with the remedy."""
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{origin.repo}"
    revision = f"@{origin.revision}" if origin.revision else ""
    what = f"hub:{origin.repo}{revision}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    match error:
        case GatedRepoError() if status == 401:
            return (
                f"{what} is gated and no token was sent (401); accept the terms on {page}, then "
                "run `hf auth login` or set HF_TOKEN, or use an ungated copy"
            )
        case GatedRepoError():
            return (
                f"{what} is gated and your token has no access ({status}); request access on "
                f"{page} and wait until it is granted, or use an ungated copy"
            )
        case RepositoryNotFoundError():
            return (
                f"{what}: the hub has no {kind} of this name, or you have no access ({status}); "
                f"check the spelling on {page}; if it is private, run `hf auth login` or set "
                "HF_TOKEN"
            )
        case RevisionNotFoundError():
            return f"{what}: this branch, tag or commit does not exist; see {page}/commits/main"
        case HfHubHTTPError():
            return (
                f"{what}: {constants.ENDPOINT} replied {status} ({_line(error)}); try again later"
            )
        case ValueError():
            return f"{what}: {_line(error)}; correct the name in the config"
    if constants.is_offline_mode():
        return (
            f"{what} is not complete in {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set; fetch "
            "it once without HF_HUB_OFFLINE, or set HF_HOME to a cache that has it"
        )
    return (
        f"{what} could not be downloaded from {constants.ENDPOINT} ({_line(error)}) and is not "
        f"complete in {constants.HF_HUB_CACHE}; check the connection (HF_ENDPOINT, proxies) and "
        "rerun, or set HF_HOME to a cache that has it"
    )


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
