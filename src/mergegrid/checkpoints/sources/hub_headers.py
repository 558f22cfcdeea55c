"""A model on the hub without its data: its small files, and the headers of its weight files.

`headers_folder` fills a folder that every reader of checkpoints takes for the model's:

    config.json, tokenizer.json, ...     links into the cache, where they are downloaded
    model-00001-of-00002.safetensors     the header, then a hole: the file has its full length
    .headers_only                        so that reading data fails instead of yielding zeros

So names, shapes, dtypes, configs and vocabularies are checked before any weights are downloaded, by
the same code as afterwards. The header of a file takes one ranged request, rarely two.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from httpx2 import TransportError
from huggingface_hub import constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # Lazy there.

from mergegrid.checkpoints.folder import HEADERS_ONLY
from mergegrid.checkpoints.safetensors_files import LONGEST_HEADER
from mergegrid.checkpoints.sources.hub import HubFiles, bring
from mergegrid.checkpoints.sources.hub_errors import explained

# As huggingface_hub: nearly all headers are shorter, and a second request takes longer.
_FIRST_REQUEST = 100_000
_REQUESTS_AT_A_TIME = 8
_ATTEMPTS = 3


def headers_folder(files: HubFiles, folder: Path) -> int:
    """Fill a folder with the small files of a model and the headers of its safetensors files.

    Files with pickled weights (`.bin`) have no header, and are left out.

    Returns:
        Bytes of the headers that were transferred.

    Raises:
        SourceError: the hub cannot be reached or denies access.
    """
    weights = files.weights
    small = [name for name in files.sizes if name not in weights]
    headers = [name for name in weights if name.endswith(".safetensors")]
    home = files.origin.subfolder or "."
    with explained(files.origin, files.kind), ThreadPoolExecutor(_REQUESTS_AT_A_TIME) as pool:
        snapshot = bring(files, small)
        starts = list(pool.map(lambda name: _header(files, name), headers))
    folder.mkdir(parents=True, exist_ok=True)
    for name in small:
        if PurePosixPath(name).is_relative_to(home):
            link = folder / PurePosixPath(name).relative_to(home)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(snapshot / name)
    for name, start in zip(headers, starts, strict=True):
        path = folder / PurePosixPath(name).relative_to(home)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(start)
            file.truncate(files.sizes[name])
    (folder / HEADERS_ONLY).touch()
    return sum(map(len, starts))


def _header(files: HubFiles, name: str) -> bytes:
    """The first bytes of a safetensors file, with all of its header unless that is damaged."""
    size = files.sizes[name]
    start = _read(files, name, 0, min(_FIRST_REQUEST, size))
    end = 8 + int.from_bytes(start[:8], "little")
    if len(start) < end <= min(size, LONGEST_HEADER):
        start += _read(files, name, len(start), end)
    return start[:end]


def _read(files: HubFiles, name: str, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a file; an interrupted connection is tried again."""
    for attempt in range(_ATTEMPTS if start < stop else 0):
        try:
            return _request(files, name, start, stop)
        except TransportError:
            if attempt == _ATTEMPTS - 1:
                raise
    return b""


def _request(files: HubFiles, name: str, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a file; no more are read if the server sends all of it."""
    url = hf_hub_url(files.origin.repo, name, revision=files.commit)
    headers = {
        **build_hf_headers(),
        "Accept-Encoding": "identity",
        "Range": f"bytes={start}-{stop - 1}",
    }
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        skipped = 0 if response.status_code == 206 else start
        content = bytearray()
        for part in response.iter_raw():
            content += part
            if len(content) >= skipped + stop - start:
                break
    return bytes(content[skipped : skipped + stop - start])
