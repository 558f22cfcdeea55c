"""Errors of the hub and of its library, in one line with the way out."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from httpx2 import HTTPError
from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from mergegrid.checkpoints.sources.source import HubOrigin
from mergegrid.errors import SourceError

_TOO_MANY_REQUESTS = 429


@contextmanager
def explained(origin: HubOrigin, kind: str) -> Iterator[None]:
    """Turn errors of the hub and its library into a `SourceError` that names the remedy.

    Raises:
        SourceError: instead of every error of the hub, the network or the cache.
    """
    try:
        yield
    except (HTTPError, OSError, EntryNotFoundError, RevisionResolutionError, ValueError) as error:
        raise SourceError(_explain(origin, kind, error)) from error


def _explain(origin: HubOrigin, kind: str, error: Exception) -> str:
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{origin.repo}"
    what = str(origin)
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
        case DisabledRepoError():
            return f"{what} was disabled by the hub ({status}), see {page}; use another copy"
        case RepositoryNotFoundError():
            return (
                f"{what}: the hub has no {kind} of this name, or you have no access ({status}); "
                f"check the spelling on {page}; if it is private, run `hf auth login` or set "
                "HF_TOKEN"
            )
        case RevisionNotFoundError():
            return f"{what}: this branch, tag or commit does not exist; see {page}/commits/main"
        case HfHubHTTPError() if status == 401:
            return (
                f"{what}: the hub rejects your token (401); run `hf auth login`, correct HF_TOKEN, "
                "or unset it for public models"
            )
        case HfHubHTTPError() if status == 403:
            return (
                f"{what}: your token has no access (403: {_line(error)}); give it read access to "
                "this repository in the settings of your account"
            )
        case HfHubHTTPError() if status == _TOO_MANY_REQUESTS:
            return (
                f"{what}: too many requests to {constants.ENDPOINT} (429); wait some minutes, or "
                "run `hf auth login`, which raises the limit"
            )
        case HfHubHTTPError():
            return (
                f"{what}: {constants.ENDPOINT} replied {status} ({_line(error)}); try again later"
            )
        case ValueError():
            return f"{what}: {_line(error)}; correct the name in the config"
        case OSError(errno=int()) if not isinstance(error, ConnectionError):
            return (
                f"{what} cannot be kept in {constants.HF_HUB_CACHE} ({_line(error)}); free some "
                "space, or set HF_HOME to a folder that you can write to"
            )
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
    lines = [line for line in lines if not re.fullmatch(r"\d{3} Client Error\..*", line)] or lines
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
