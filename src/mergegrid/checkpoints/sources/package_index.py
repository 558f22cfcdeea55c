"""Package indexes: listing the files of a package and downloading one of them.

Reads the Simple API as JSON or HTML. Respects PIP_INDEX_URL (which may contain a user and password)
or pip's configuration, proxy variables, PIP_CERT and SSL_CERT_FILE. pip's extra indexes and
`--find-links` folders are not used.
"""

import base64
import hashlib
import json
import os
import ssl
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from http.client import HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import Request, urlopen

_TIMEOUT = 60


@dataclass(frozen=True)
class Listed:
    """A file in a package index."""

    name: str
    url: str
    sha256: str | None


def index_url() -> str:
    """The URL of the index: PIP_INDEX_URL, pip's configuration, or PyPI."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    command = [sys.executable, "-P", "-m", "pip", "config", "get", "global.index-url"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.returncode == 0 and done.stdout.strip()) or "https://pypi.org/simple"


def listing(url: str) -> list[Listed]:
    """List the files on an index page.

    Raises:
        OSError, HTTPException, ValueError: there is no response, or it cannot be parsed.
    """
    accept = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    with _open(url, accept + "text/html;q=0.1") as response:
        kind, body = response.headers.get_content_type(), response.read().decode()
        base = response.geturl()  # Relative links refer to it, also after a redirect.
    if kind.endswith("json"):
        return [
            Listed(file["filename"], urljoin(base, file["url"]), file["hashes"].get("sha256"))
            for file in json.loads(body)["files"]
        ]
    links = _Links()
    links.feed(body)
    listed = []
    for link in links.targets:
        target, fragment = urldefrag(urljoin(base, link))
        name = unquote(PurePosixPath(urlsplit(target).path).name)
        checksum = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
        listed.append(Listed(name, target, checksum))
    return listed


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for key, value in attrs if tag == "a" and key == "href" and value]


def save(url: str, path: Path) -> str:
    """Download a file and return its SHA-256.

    Raises:
        OSError, HTTPException: there is no response, or the connection ended early.
    """
    checksum = hashlib.sha256()
    with _open(url, "*/*") as response, path.open("wb") as file:
        while chunk := response.read(1 << 20):
            checksum.update(chunk)
            file.write(chunk)
    size, stated = path.stat().st_size, response.headers["Content-Length"]
    if stated is not None and size != int(stated):
        raise ConnectionError(f"the connection ended after {size} of {stated} bytes")
    return checksum.hexdigest()


def _open(url: str, accept: str) -> HTTPResponse:
    request = Request(public(url), headers={"Accept": accept, "User-Agent": "mergegrid"})
    parts = urlsplit(url)
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        # The login is for the index only, not for hosts it redirects to.
        request.add_unredirected_header(
            "Authorization", f"Basic {base64.b64encode(login).decode()}"
        )
    authorities = os.environ.get("PIP_CERT")
    context = ssl.create_default_context()
    if authorities:
        folder = Path(authorities).is_dir()
        context.load_verify_locations(
            cafile=None if folder else authorities, capath=authorities if folder else None
        )
    response: HTTPResponse = urlopen(request, timeout=_TIMEOUT, context=context)
    return response


def public(url: str) -> str:
    """A URL without its user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
