"""A package index with one sdist, whose downloads can be made to end in the middle."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from server import serving


class Index:
    """The index as it is now: of the package `tiny` in version 1.0, say, as `tiny-1.0.zip`."""

    def __init__(self, file: str, archive: bytes, *, as_json: bool = False) -> None:
        self.file, self.archive, self.as_json = file, archive, as_json
        self.url = ""
        """For PIP_INDEX_URL, while the index is open."""
        self.cuts: list[int] = []
        """After how many bytes the next downloads end."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.archive).hexdigest()

    def page(self) -> tuple[bytes, str]:
        """What the package's page holds, and its media type."""
        if self.as_json:
            hashes = {"sha256": self.sha256}
            file = {"filename": self.file, "url": f"../../files/{self.file}", "hashes": hashes}
            body = json.dumps({"meta": {"api-version": "1.0"}, "files": [file]})
            return body.encode(), "application/vnd.pypi.simple.v1+json"
        return f'<a href="/files/{self.file}">{self.file}</a>'.encode(), "text/html"

    @contextmanager
    def open(self) -> Iterator["Index"]:
        """Serve it."""
        index, package = self, self.file.partition("-")[0]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == f"/simple/{package}/":
                    self.answer(*index.page())
                elif self.path == f"/files/{index.file}":
                    only = index.cuts.pop(0) if index.cuts else None
                    self.answer(index.archive, "application/octet-stream", only)
                else:
                    self.send_error(404)

            def answer(self, body: bytes, kind: str, only: int | None = None) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:only])

            def log_message(self, *_: object) -> None:
                pass

        with serving(Handler) as url:
            self.url = f"{url}/simple"
            yield self
