"""A small hub on 127.0.0.1 that takes uploads and serves what it was given.

It answers what `HfApi.create_repo`, `repo_info`, `create_branch` and `upload_folder` (without Xet)
ask, and what `snapshot_download` and `datasets.load_dataset` ask to read a repository back. Tokens
are the words `write` and `read`.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

from server import serving

LARGE = (".safetensors", ".parquet", ".bin")


@dataclass
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    pull_requests: list[dict[str, bytes]] = field(default_factory=list)

    def sha(self, revision: str) -> str:
        text = json.dumps({n: digest(d) for n, d in sorted(self.files(revision).items())})
        return hashlib.sha1(text.encode()).hexdigest()

    def files(self, revision: str) -> dict[str, bytes]:
        return self.branches.get(revision, self.branches["main"])


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Hub:
    """Repositories by (kind, id), and requests by method and path."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []

    def environment(self, home: Path, token: str | None = "write") -> dict[str, str]:
        """Variables of a process that uses this hub and nothing of the user's."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        tokens = {"HF_TOKEN": token} if token else {}
        return kept | tokens | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def do_PUT(self) -> None:
        self.respond()

    def do_POST(self) -> None:
        self.respond()

    def respond(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if re.fullmatch("/lfs/[0-9a-f]{64}", path) and self.command == "PUT":
            assert path.removeprefix("/lfs/") == digest(body)
            self.hub.objects[digest(body)] = body
            self.send(200, {})
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.send(200, self.batch(json.loads(body)))
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind = "dataset" if match[1] else "model"
            self.send_file(self.hub.repositories[kind, match[2]], match[3], match[4])
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.send(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(.*))?", path):
            self.repository(match[1], match[2], (match[3] or "").split("/"), body)
        else:
            self.send(404, {"error": f"no {path}"})

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def refused(self) -> bool:
        if self.token == "write":
            return False
        error = "Invalid username or password." if self.token != "read" else "no write access"
        self.send(403 if self.token == "read" else 401, {"error": error})
        return True

    def create(self, request: dict[str, str]) -> None:
        if self.refused():
            return
        key = (request.get("type") or "model", f"{request['organization']}/{request['name']}")
        known = key in self.hub.repositories
        if not known:
            self.hub.repositories[key] = Repository(request.get("visibility") == "private")
        self.send(409 if known else 200, {"url": f"{self.hub.url}/{key[1]}"})

    def repository(self, kind: str, repo: str, rest: list[str], body: bytes) -> None:
        stored = self.hub.repositories.get((kind, repo))
        if stored is None or (stored.private and not self.token):
            status = 404 if self.token else 401
            self.send(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif rest[0] in ("preupload", "commit", "branch") and not self.refused():
            revision = rest[1] if len(rest) > 1 else "main"
            getattr(self, rest[0])(kind, repo, stored, revision, body)
        elif rest[0] == "tree":
            self.send(200, [self.entry(n, d) for n, d in sorted(stored.files(rest[1]).items())])
        elif rest[0] == "paths-info":
            files = stored.files(rest[1])
            wanted = json.loads(body)["paths"] if body[:1] == b"{" else []
            self.send(200, [self.entry(n, files[n]) for n in wanted if n in files])
        elif rest[0] in ("", "revision"):
            revision = rest[1] if len(rest) > 1 else "main"
            names = [{"rfilename": name} for name in sorted(stored.files(revision))]
            self.send(200, {"id": repo, "sha": stored.sha(revision), "private": stored.private,
                            "siblings": names, "tags": [], "downloads": 0, "likes": 0})  # fmt: skip

    def entry(self, name: str, data: bytes) -> dict[str, object]:
        large = {"lfs": {"oid": digest(data), "size": len(data), "pointerSize": 130}}
        plain = {"type": "file", "path": name, "size": len(data), "oid": digest(data)[:40]}
        return plain | (large if name.endswith(LARGE) else {})

    def preupload(
        self, kind: str, repo: str, stored: Repository, revision: str, body: bytes
    ) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self.send(200, {"files": files})

    def branch(self, kind: str, repo: str, stored: Repository, revision: str, body: bytes) -> None:
        known = revision in stored.branches
        stored.branches.setdefault(revision, dict(stored.branches["main"]))
        self.send(409 if known else 200, {})

    def commit(self, kind: str, repo: str, stored: Repository, revision: str, body: bytes) -> None:
        files = dict(stored.branches[revision])
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        address = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        answer = {"commitOid": "", "commitUrl": f"{address}/commit/1"}
        if "create_pr=1" in self.path:
            stored.pull_requests.append(files)
            answer["pullRequestUrl"] = f"{address}/discussions/{len(stored.pull_requests)}"
        else:
            stored.branches[revision] = files
        answer["commitOid"] = stored.sha(revision)
        self.send(200, answer)

    def batch(self, request: dict[str, list[dict[str, object]]]) -> dict[str, object]:
        objects = [
            item | ({} if item["oid"] in self.hub.objects else {
                "actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            })
            for item in request["objects"]
        ]  # fmt: skip
        return {"transfer": "basic", "objects": objects}

    def send_file(self, stored: Repository, revision: str, name: str) -> None:
        data = stored.files(revision).get(name)
        if data is None:
            self.send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        etag = digest(data) if name.endswith(LARGE) else digest(data)[:40]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": stored.sha(revision)}
        start, stop = 0, len(data)
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or stop - 1) + 1, stop)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.send(206 if wanted else 200, data[start:stop], headers)

    def send(self, status: int, answer: object, headers: dict[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def upload_hub() -> Iterator[Hub]:
    """An empty hub."""
    hub = Hub()
    with serving(type("HubHandler", (Handler,), {"hub": hub})) as hub.url:
        yield hub
