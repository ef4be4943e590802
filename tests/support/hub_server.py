"""Servers that answer as the Hugging Face Hub does: for a local folder, and for what is pushed."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from huggingface_hub import constants

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

            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                if hub.refusal is not None:
                    hub.refuse(self, *hub.refusal)
                else:
                    hub.take(self, sent)

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
            cut = self.cut_weights and path.suffix == ".safetensors"
            self.send(request, path.read_bytes(), COMMIT, body=body, cut=cut)

    def take(self, request: BaseHTTPRequestHandler, sent: bytes) -> None:
        """Answer a request that writes."""
        del sent
        self.refuse(request, 403, "")

    def send(
        self,
        request: BaseHTTPRequestHandler,
        content: bytes,
        commit: str,
        *,
        body: bool,
        cut: bool = False,
        status: int = 200,
    ) -> None:
        request.send_response(status)
        # The Hub's cache stores content under its SHA-256.
        request.send_header("ETag", hashlib.sha256(content).hexdigest())
        request.send_header("X-Repo-Commit", commit)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            request.wfile.write(content[: len(content) // 2] if cut else content)
            request.close_connection = True

    def refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", "0")
        request.end_headers()


class PushedHub(HubServer):
    """Takes repositories and commits, and serves every commit.

    Attributes:
        repositories: the commits of each repository by their hashes, oldest first: all files.
        asked: the body of each request to make a repository.
    """

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"))
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[dict[str, object]] = []

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes] | None:
        commits = self.repositories[repo]
        if revision == "main":
            return next(reversed(commits.values()), {})
        return commits.get(revision)

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0].strip("/")
        if self.refusal is not None:
            self.refuse(request, *self.refusal)
            return
        if path.startswith("api/models/"):
            repo = "/".join(path.split("/")[2:4])
            if repo not in self.repositories:
                self.refuse(request, 404, "RepoNotFound")
            else:
                latest = next(reversed(self.repositories[repo]))
                content = json.dumps({"id": repo, "sha": latest}).encode()
                self.send(request, content, latest, body=body)
            return
        owner, name, _, revision, *file = path.split("/")
        repo = f"{owner}/{name}"
        if repo not in self.repositories:
            self.refuse(request, 404, "RepoNotFound")
        elif (files := self.files(repo, revision)) is None:
            self.refuse(request, 404, "RevisionNotFound")
        elif (content := files.get("/".join(file))) is None:
            self.refuse(request, 404, "EntryNotFound")
        else:
            commits = self.repositories[repo]
            commit = next(reversed(commits)) if revision == "main" else revision
            self.send(request, content, commit, body=body)

    def take(self, request: BaseHTTPRequestHandler, sent: bytes) -> None:
        status = 200
        _, kind, *rest = request.path.partition("?")[0].strip("/").split("/")
        if kind == "validate-yaml":
            answer: dict[str, object] = {"warnings": [], "errors": []}
        elif kind == "repos":
            asked = json.loads(sent)
            self.asked.append(asked)
            repo = f"{asked['organization']}/{asked['name']}"
            status = 409 if repo in self.repositories else 200
            self.repositories.setdefault(repo, {})
            answer = {"url": f"{self.url}/{repo}", "id": repo}
        else:
            owner, name, action, _ = rest
            repo = f"{owner}/{name}"
            if repo not in self.repositories:
                self.refuse(request, 404, "RepoNotFound")
                return
            if action == "preupload":
                answer = {"files": list(map(self.regular, json.loads(sent)["files"]))}
            else:
                commit = self.commit(repo, [json.loads(line) for line in sent.splitlines()])
                answer = {"commitUrl": f"{self.url}/{repo}/commit/{commit}", "commitOid": commit}
        self.send(request, json.dumps(answer).encode(), COMMIT, body=True, status=status)

    def regular(self, file: dict[str, object]) -> dict[str, object]:
        return {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}

    def commit(self, repo: str, lines: list[dict[str, dict[str, str]]]) -> str:
        files = dict(self.files(repo) or {})
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commits = self.repositories[repo]
        commit = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        return commit


def use_hub(monkeypatch, url: str, cache: Path) -> None:
    """Let the Hub's client ask this server, with an empty cache, and without waiting."""
    move_hub(monkeypatch, url)
    # Existing clients keep their old address.
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda _: None)


def move_hub(monkeypatch, url: str) -> None:
    """Give the Hub another address."""
    files = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
