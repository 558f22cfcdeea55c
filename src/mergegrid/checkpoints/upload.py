"""Uploading folders to the Hugging Face hub: the only place that sends anything there.

The library's settings apply: HF_TOKEN (or `hf auth login`), HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import glob
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from httpx2 import HTTPError
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mergegrid.checkpoints.identity import is_informational
from mergegrid.checkpoints.inspection import inspect
from mergegrid.checkpoints.publish import MANIFEST, read_manifest
from mergegrid.errors import CheckpointError, ConfigError, SourceError

_REPO = re.compile(r"[A-Za-z0-9]([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)
#: Weights of an earlier upload, which a reader could take for part of the new model.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*")
#: Files whose text may contain a path of this machine. Vocabularies are full of slashes.
_TEXT_FILES = re.compile(r"(?:.*config|manifest)\.json|.*\.(?:md|ya?ml)|LICENSE")
_PATH = re.compile(r"(?<![\w/.<])(/[\w.+-]+)(?:/[\w.+@~-]+)+")


@dataclass(frozen=True)
class Upload:
    """Files to upload into one repository."""

    repo: str
    """Repository, such as `org/name`."""
    kind: Literal["model", "dataset"]
    """Kind of the repository."""
    folder: Path
    """Where the files are."""
    sizes: Mapping[str, int]
    """Bytes by file name, relative to the folder."""
    left_out: list[str] = field(default_factory=list)
    """Other files of the folder, which stay on this machine."""

    def __str__(self) -> str:
        lines = [f"{size:>15,}  {name}" for name, size in self.sizes.items()]
        lines.append(f"{sum(self.sizes.values()):>15,}  bytes in {len(self.sizes)} files")
        return "\n".join(lines)


def upload_of_model(folder: Path, repo: str) -> Upload:
    """Read a model folder completely, compare it with its manifest, and list what to upload.

    Files that the manifest does not list stay here, except for prose and pictures beside the model.

    Raises:
        ConfigError: `repo` is not the name of a repository.
        CheckpointError: the folder was not published by mergegrid, differs from its manifest, or
            mentions a path of this machine.
    """
    check_repo(repo)
    if not folder.is_dir():
        raise CheckpointError(f"folder {folder} does not exist; specify a merged model")
    manifest = read_manifest(folder)
    inspect(folder)
    listed = {*manifest["files"], *manifest.get("weights", {}).get("files", {}), MANIFEST}
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    chosen = [name for name in names if name in listed or _is_prose(name)]
    for name in chosen:
        if _TEXT_FILES.fullmatch(name):
            check_local_paths(
                folder / name,
                "remove it from the file or, if the manifest lists the file, from the model that "
                "it was copied from, and merge again",
            )
    sizes = {name: (folder / name).stat().st_size for name in chosen}
    return Upload(repo, "model", folder, sizes, [name for name in names if name not in chosen])


def check_repo(repo: str) -> None:
    """Check the name of a repository.

    Raises:
        ConfigError: it is not of the form `org/name`.
    """
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo or len(repo) > 96:
        raise ConfigError(
            f"{repo!r} is not the name of a repository; write org/name, with letters, digits, and "
            "single `-`, `_` or `.` inside the names"
        )


def check_local_paths(file: Path, remedy: str) -> None:
    """Check that a text file mentions no absolute path of this machine.

    Raises:
        CheckpointError: it has a path whose first folder exists here.
    """
    for match in _PATH.finditer(file.read_text(encoding="utf-8", errors="replace")):
        if Path(match[1]).is_dir() or match[1] in ("/home", "/Users"):
            raise CheckpointError(
                f"{file} mentions {match[0]}, a path of this machine, which an upload would "
                f"publish; {remedy}"
            )


def send(upload: Upload, private: bool, revision: str | None, create_pr: bool) -> str:
    """Upload files in one commit or, if there are many, several; create the repository if needed.

    Weights of an earlier upload that are not overwritten are removed. An interrupted upload
    continues when it is repeated.

    Args:
        upload: what to upload.
        private: create a private repository. An existing one must be private.
        revision: branch to upload to, created if needed; by default the main one.
        create_pr: open a pull request instead; the repository must exist.

    Returns:
        The address of the commit or pull request.

    Raises:
        ConfigError: the options exclude each other, or the repository exists and is public.
        SourceError: the hub refuses, or cannot be reached.
    """
    if create_pr and revision:
        raise ConfigError(
            "--create-pr opens a pull request for the main branch; omit --revision, or --create-pr"
        )
    api = HfApi()
    with _explained(upload):
        if not create_pr:
            api.create_repo(
                upload.repo, repo_type=upload.kind, private=private or None, exist_ok=True
            )
        if private and not api.repo_info(upload.repo, repo_type=upload.kind).private:
            raise ConfigError(
                f"{upload.repo} exists and is public, so --private cannot hold; choose another "
                "name, or make it private in its settings on the hub"
            )
        if revision:
            api.create_branch(upload.repo, branch=revision, repo_type=upload.kind, exist_ok=True)
        commit = api.upload_folder(
            repo_id=upload.repo,
            repo_type=upload.kind,
            folder_path=upload.folder,
            allow_patterns=[glob.escape(name) for name in upload.sizes],
            delete_patterns=list(_WEIGHTS) if upload.kind == "model" else None,
            revision=revision,
            create_pr=create_pr,
            commit_message=f"Upload {upload.folder.name} with mergegrid",
        )
    return commit.pr_url or str(commit.commit_url)


def _is_prose(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return is_informational(name) and (not hidden or name.startswith(".eval_results/"))


@contextmanager
def _explained(upload: Upload) -> Iterator[None]:
    """Turn errors of the hub or its library into one line with the remedy."""
    page = f"{constants.ENDPOINT}/{'datasets/' if upload.kind == 'dataset' else ''}{upload.repo}"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SourceError("HF_HUB_OFFLINE is set; unset it to upload") from error
    except RevisionNotFoundError as error:
        raise SourceError(f"{page} has no such branch; see {page}/branches") from error
    except RepositoryNotFoundError as error:
        # Without a valid token the hub denies that private repositories exist.
        raise SourceError(
            f"{page} does not exist, or your token has no access; check the name, and run "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        raise SourceError(_reply(page, error)) from error
    except ValueError as error:
        raise SourceError(f"{page}: {_line(error)}; correct the model card and repeat") from error
    except (HTTPError, OSError) as error:
        raise SourceError(
            f"{constants.ENDPOINT} could not be reached ({_line(error)}); check the connection "
            "(HF_ENDPOINT, proxies) and repeat the command, which continues the upload"
        ) from error


def _reply(page: str, error: HfHubHTTPError) -> str:
    match error.response.status_code:
        case 401:
            return (
                f"{page}: no valid token was sent (401); run `hf auth login`, or set HF_TOKEN to a "
                "token with write access"
            )
        case 403:
            return (
                f"{page}: your token may not write there (403); create a token with write access "
                f"on {constants.ENDPOINT}/settings/tokens, or check the name of the owner"
            )
        case status:
            return (
                f"{page}: the hub replied {status} ({error.server_message or _line(error)}); "
                "repeat the command, which continues the upload"
            )


def _line(error: Exception) -> str:
    (line, *_) = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {line}"
