"""A server that answers as the Hugging Face Hub does, for one model in a local folder."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0" * 40


class HubServer:
    """Serves `owner/model`; on demand it answers with an error code, or truncates weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refusal: tuple[int, str] | None = None
        self.cut_weights = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> HubServer:
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        prefix = "/owner/model/resolve/"
        path = self.folder / request.path.removeprefix(prefix).partition("/")[2]
        if self.refusal is not None:
            self.refuse(request, *self.refusal)
        elif not request.path.startswith(prefix) or not path.is_file():
            self.refuse(request, 404, "EntryNotFound")
        else:
            self.send(request, path, body=body)

    def send(self, request: BaseHTTPRequestHandler, path: Path, *, body: bool) -> None:
        content = path.read_bytes()
        request.send_response(200)
        request.send_header("ETag", etag(path))
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            cut = self.cut_weights and path.suffix == ".safetensors"
            request.wfile.write(content[: len(content) // 2] if cut else content)
            request.close_connection = True

    def refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", "0")
        request.end_headers()


def etag(path: Path) -> str:
    """The SHA-256 of a file, under which the Hub's cache stores its content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
