"""A package index on 127.0.0.1 with one sdist, whose downloads can be made to end in the middle."""

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FILE = "tiny-1.0.zip"


def sdist(rows: list[dict[str, str]]) -> bytes:
    """The package `tiny`: instructions in `data/rows.jsonl`."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in [
            ("PKG-INFO", "Name: tiny\nVersion: 1.0\n"),
            ("data/rows.jsonl", text),
        ]:
            archive.writestr(zipfile.ZipInfo(f"tiny-1.0/{name}"), content)
    return buffer.getvalue()


class Index:
    """What the index does now."""

    def __init__(self, archive: bytes) -> None:
        self.archive = archive
        self.url = ""
        self.cuts: list[int] = []
        """After how many bytes the next downloads end."""


@contextmanager
def serving(index: Index) -> Iterator[None]:
    """Serve an index, which gets its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/simple/tiny/":
                self._answer(f'<a href="/files/{FILE}">{FILE}</a>'.encode(), "text/html")
            elif self.path == f"/files/{FILE}":
                only = index.cuts.pop(0) if index.cuts else None
                self._answer(index.archive, "application/zip", only)
            else:
                self.send_error(404)

        def _answer(self, body: bytes, kind: str, only: int | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:only])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
