"""A small hub on 127.0.0.1 that models are downloaded from; it counts requests and bytes."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote

from server import serving

#: The only valid token.
TOKEN = "hf_right"
_LARGE = (".safetensors", ".bin", ".parquet")

Files = Mapping[str, bytes | Path]


@dataclass(frozen=True)
class Repo:
    """A repository: files by name for each branch or tag, and who may read it."""

    branches: Mapping[str, Files]
    state: str = "public"
    """`public`, `gated`, `disabled`, or `busy`, which replies 503."""

    def commit(self, branch: str) -> str:
        """A commit id that depends on the names and sizes of the files."""
        sizes = {name: _size(data) for name, data in self.branches[branch].items()}
        return hashlib.sha1(json.dumps([branch, sizes], sort_keys=True).encode()).hexdigest()

    def files(self, revision: str) -> Files | None:
        """The files of a branch, tag or commit."""
        for branch, files in self.branches.items():
            if revision in (branch, self.commit(branch)):
                return files
        return None


@dataclass
class Hub:
    """A running hub."""

    repos: dict[str, Repo]
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """Method and path of every request."""
    sent: int = 0
    """Bytes of all replies, without their headers."""
    cuts: dict[str, int] = field(default_factory=dict)
    """By name of a file, the bytes after which the next download of it breaks off."""
    denied: set[str] = field(default_factory=set)
    """Repositories of which no whole file is sent."""
    ranges: bool = True
    """Whether ranges of files are served; otherwise the whole file is sent."""

    def downloads(self, ending: str) -> list[str]:
        """Requests for the content of files whose path ends so."""
        return [line for line in self.requests if line.startswith("GET") and line.endswith(ending)]


def repo_of(folder: Path, **options: str) -> Repo:
    """A repository whose main branch has the files of a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    return Repo({"main": files}, **options)


@contextmanager
def hub_of(repos: Mapping[str, Repo]) -> Iterator[Hub]:
    """Serve repositories by id."""
    hub = Hub(dict(repos))
    handler = type("Handler", (_Handler,), {"hub": hub})
    with serving(handler) as hub.url:
        yield hub


def environment(url: str, home: Path, **settings: str) -> dict[str, str]:
    """Environment of a process that uses a hub and keeps its files below `home`."""
    dropped = ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    env = {key: value for key, value in os.environ.items() if key not in dropped}
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return env | {"MERGEGRID_CACHE": str(home / "cache")} | settings


def python(code: str, env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: the settings of the hub's library are read at import."""
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def respond(self) -> None:
        path, _, query = self.path.partition("?")
        self.hub.requests.append(f"{self.command} {path}")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        api = parts[0] == "api"
        parts = parts[2:] if api else parts[parts[0] == "datasets" :]
        repo = self.hub.repos.get("/".join(parts[:2]))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != TOKEN:
            message = "Invalid credentials in Authorization header"
            self.send(401, b"{}", {"X-Error-Message": message})
        elif repo is None:
            self.send(404 if token else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif repo.state == "busy":
            self.send(503, b"{}", {})
        elif repo.state == "disabled":
            message = "Access to this resource is disabled."
            self.send(403, b"{}", {"X-Error-Message": message})
        elif api:
            self.respond_api(repo, "/".join(parts[:2]), parts[2:], parse_qs(query))
        else:
            denied = "/".join(parts[:2]) in self.hub.denied and "Range" not in self.headers
            if denied and self.command == "GET" and parts[-1].endswith(_LARGE):
                self.send(403, b"", {"X-Error-Message": "denied"})
                return
            # Revisions with slashes are sent as one part, and `refs/pr/1` is not.
            at = 3 if parts[3] != "refs" else 5
            revision = "/".join(parts[3 : at + 1])
            self.respond_file(repo, bool(token), revision, "/".join(parts[at + 1 :]))

    def respond_api(self, repo: Repo, name: str, rest: list[str], query: object) -> None:
        revision = "/".join(rest[1:]) if rest[:1] in (["revision"], ["tree"]) else "main"
        files = repo.files(revision)
        if files is None:
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] == ["tree"]:
            tree = [_entry(name, data) for name, data in files.items()]
            self.send(200, json.dumps(tree).encode(), {})
        else:
            commit = next(repo.commit(b) for b, same in repo.branches.items() if same is files)
            self.send(200, json.dumps({"id": name, "sha": commit, "siblings": []}).encode(), {})

    def respond_file(self, repo: Repo, known: bool, revision: str, name: str) -> None:
        files = repo.files(revision)
        if repo.state == "gated":
            self.send(403 if known else 401, b"", {"X-Error-Code": "GatedRepo"})
            return
        if files is None or name not in files:
            code = "RevisionNotFound" if files is None else "EntryNotFound"
            self.send(404, b"", {"X-Error-Code": code})
            return
        data = files[name]
        size, first, last = _size(data), 0, _size(data) - 1
        status = 200
        headers = {"ETag": f'"{_etag(name, data)}"', "X-Repo-Commit": revision}
        if (wanted := self.headers.get("Range")) and self.hub.ranges:
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(stop), last) if stop else last
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            status = 206
        cut = self.hub.cuts.pop(name, None) if self.command == "GET" else None
        self.send(status, data, headers, (first, last + 1), cut)

    def send(
        self,
        status: int,
        body: bytes | Path,
        headers: Mapping[str, str],
        span: tuple[int, int] | None = None,
        cut: int | None = None,
    ) -> None:
        first, stop = span or (0, _size(body))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(stop - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = stop if cut is None else first + cut
        for start in range(first, stop, 1 << 20):
            part = _read(body, start, min(start + (1 << 20), stop))
            try:
                self.wfile.write(part)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
                return
            self.hub.sent += len(part)
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _size(data: bytes | Path) -> int:
    return len(data) if isinstance(data, bytes) else data.stat().st_size


def _read(data: bytes | Path, start: int, stop: int) -> bytes:
    if isinstance(data, bytes):
        return data[start:stop]
    with data.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


@cache
def _etag(name: str, data: bytes | Path) -> str:
    """Of large files, which git keeps elsewhere, the hub says the SHA-256; of others, git's."""
    content = data if isinstance(data, bytes) else data.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    return checksum if name.endswith(_LARGE) else checksum[:40]


def _entry(name: str, data: bytes | Path) -> dict[str, object]:
    return {"type": "file", "path": name, "size": _size(data), "oid": _etag(name, data)[:40]}
