"""Repositories of the Hugging Face hub, kept in the hub library's own cache.

The library's settings hold: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. Of a
repository only what one format of it needs is downloaded: bert-base-uncased is 440 MB instead of
3 GB. Once at hand, a commit is used without asking the hub again. A file that was cut there, or
whose SHA-256 is not the hub's, is downloaded again.
"""

import glob
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import yaml
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

from mergegrid.checkpoints.sources import cache
from mergegrid.checkpoints.sources.cache import Found
from mergegrid.checkpoints.sources.hub_files import nothing, patterns
from mergegrid.checkpoints.sources.source import HubOrigin
from mergegrid.errors import SourceError

_log = logging.getLogger(__name__)
_SHA256 = re.compile("[0-9a-f]{64}")


def find(origin: HubOrigin, kind: Literal["model", "dataset"], store: Path) -> Found:
    """The folder or file of a repository in the hub's cache, downloaded where it is missing.

    Raises:
        SourceError: the repository, revision or subfolder does not exist or may not be read, the
            hub cannot be reached and the cache lacks the files, or the disk is too small.
    """
    try:
        commit = HfApi().resolve_revision(origin.repo, repo_type=kind, revision=origin.revision)
        sizes = _sizes(origin.repo, kind, commit.resolved)
        names = patterns(list(sizes), kind, origin.subfolder)
        if not names:
            raise SourceError(nothing(origin, kind, list(sizes)))
        wanted = {name: sizes[name] for name in names}
        snapshot = _snapshot(origin.repo, kind, commit.resolved, wanted)
        found = _measure(origin, snapshot, names, store)
        if changed := _changed(found):
            for blob in changed:
                _log.warning("%s is not what the hub says; downloading it again", blob)
                blob.unlink(missing_ok=True)
            snapshot = _snapshot(origin.repo, kind, commit.resolved, wanted)
            found = _measure(origin, snapshot, names, store)
    except (HTTPError, OSError, EntryNotFoundError, RevisionResolutionError, ValueError) as error:
        raise SourceError(_explain(origin, kind, error)) from error
    if changed := _changed(found):
        raise SourceError(
            f"{changed[0]} does not get the checksum that is its name; check the disk of "
            f"{constants.HF_HUB_CACHE}"
        )
    return replace(found, resolved=commit.resolved, licence=_licence(snapshot / "README.md"))


def _measure(origin: HubOrigin, snapshot: Path, names: list[str], store: Path) -> Found:
    below = f"{origin.subfolder}/" if origin.subfolder else ""
    inside = [name.removeprefix(below) for name in names if name.startswith(below)]
    return cache.measure(snapshot / (origin.subfolder or ""), inside, store)


def _changed(found: Found) -> list[Path]:
    """Files whose bits are not those that the hub gave.

    The hub's cache calls a large file by its SHA-256; of small ones, which are called by what git
    makes of them, nothing is known.
    """
    folder = found.path.parent if found.path.is_file() else found.path
    blobs = {(folder / name).resolve(): checksum for name, checksum in found.files.items()}
    return [
        blob
        for blob, checksum in blobs.items()
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) and blob.name != checksum
    ]


def _sizes(repo: str, kind: str, commit: str) -> dict[str, int]:
    """Name -> bytes of all files in a commit."""
    try:
        tree = get_cached_repo_tree(repo, repo_type=kind, revision=commit)
        return {file.path: file.size for file in tree}
    except CachedRepoTreeNotFoundError:
        pass
    try:
        listed = HfApi().list_repo_tree(repo, repo_type=kind, revision=commit, recursive=True)
        return {file.path: file.size for file in listed if isinstance(file, RepoFile)}
    except (HTTPError, OSError) as unreachable:
        # A cache made before huggingface_hub 2 has no list of files: what is there counts as all.
        try:
            at_hand = snapshot_download(
                repo, repo_type=kind, revision=commit, local_files_only=True
            )
        except LocalEntryNotFoundError:
            raise unreachable from None
        folder = Path(at_hand)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _snapshot(repo: str, kind: str, commit: str, sizes: dict[str, int]) -> Path:
    """The folder of a commit with whole files of the given names and sizes in it."""
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
                _log.warning("%s (%s of %s) was cut; downloading it again", path, name, repo)
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
            f"{path} ({damaged[0]} of {repo}) has {size} bytes, the hub says {sizes[damaged[0]]}; "
            "delete it and run again"
        )
    return folder


def check_space(needed: int, folder: Path) -> None:
    """Make sure that a disk has room for a download.

    Raises:
        SourceError: it has not; both numbers are said.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SourceError(
            f"the download needs {needed / 1e9:.1f} GB and the disk of {folder} has "
            f"{free / 1e9:.1f} GB free; make room, or set HF_HOME to a folder on a larger disk"
        )


def _damaged(folder: Path, sizes: dict[str, int]) -> list[str]:
    """Files that are missing or have another size."""
    paths = {name: folder / name for name in sizes}
    return [
        name
        for name, path in paths.items()
        if not path.is_file() or path.stat().st_size != sizes[name]
    ]


def _licence(card: Path) -> str | None:
    """What the `license:` of a model or data set card says, `license_name:` where it is `other`."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    if not isinstance(front, dict) or not front.get("license"):
        return None
    stated = front["license"]
    if stated == "other" and front.get("license_name"):
        stated = front["license_name"]
    return ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)


def _explain(origin: HubOrigin, kind: str, error: Exception) -> str:
    """One line for what the hub or its library answered, and what to do."""
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{origin.repo}"
    revision = f"@{origin.revision}" if origin.revision else ""
    what = f"hub:{origin.repo}{revision}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    match error:
        case GatedRepoError() if status == 401:
            return (
                f"{what} is gated and no token was sent (401); accept the terms on {page}, then "
                "run `hf auth login` or set HF_TOKEN, or name an ungated copy"
            )
        case GatedRepoError():
            return (
                f"{what} is gated and your token has no access to it ({status}); ask for access "
                f"on {page} and wait until it is granted, or name an ungated copy"
            )
        case RepositoryNotFoundError():
            return (
                f"{what}: the hub knows no {kind} of this name that you may read ({status}); "
                f"check the spelling on {page}; if it is private, run `hf auth login` or set "
                "HF_TOKEN"
            )
        case RevisionNotFoundError():
            return f"{what}: no such branch, tag or commit; see {page}/commits/main"
        case HfHubHTTPError():
            return (
                f"{what}: {constants.ENDPOINT} answered {status} ({_line(error)}); try again later"
            )
        case ValueError():
            return f"{what}: {_line(error)}; correct the name in the config"
    if constants.is_offline_mode():
        return (
            f"{what} is not whole in {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set; fetch it "
            "once without HF_HUB_OFFLINE, or set HF_HOME to a cache that has it"
        )
    return (
        f"{what} could not be fetched from {constants.ENDPOINT} ({_line(error)}) and is not whole "
        f"in {constants.HF_HUB_CACHE}; check the connection (HF_ENDPOINT, proxies) and run again, "
        "or bring a filled HF_HOME"
    )


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
