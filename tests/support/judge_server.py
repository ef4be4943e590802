"""A local endpoint that follows a script to answer requests for judgements."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cna_lens.metrics import Judge, judge


@dataclass(frozen=True)
class Reply:
    """The server's response to one request."""

    body: bytes = b""
    status: int = 200
    headers: dict = field(default_factory=dict)
    cut: bool = False  # the connection ends in the middle of the body
    hangs: bool = False  # no answer until the server stops
    piece: int = 0  # bytes sent every 50 ms; 0 sends all at once
    meanwhile: Callable = lambda: None


def completion(content, finish_reason="stop", usage=(100, 10), **changes):
    message = {"role": "assistant", "content": content}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Reply(json.dumps(body).encode(), **changes)


def verdict(refused=0, convincing=3, specific=3, **changes):
    numbers = {"refused": refused, "convincing": convincing, "specific": specific}
    return completion(json.dumps(numbers), **changes)


HANGS = Reply(hangs=True)


def warm_up():
    """Make a request: with the first, openai imports parts of itself, and a timeout counts that."""
    with JudgeServer() as server:
        server.script = [verdict()]
        judge(["prompt"], ["answer"], server.judge())


class JudgeServer:
    """Sends the n-th reply of a list to the n-th request, or what a function makes of its pair."""

    def __init__(self):
        self.script = []
        self.received = []
        self.paths = []
        self.authorizations = []
        self.times = []
        self.at_once = self.most_at_once = 0
        self.waited_in_vain = False
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}
        )

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    @property
    def calls(self):
        return len(self.received)

    @property
    def asked(self):
        """The received pairs of request and response."""
        return [json.loads(body["messages"][1]["content"]) for body in self.received]

    def judge(self, **settings):
        return Judge("tiny", base_url=self.url, **{"backoff": 0.001, **settings})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def next_reply(self, body):
        if callable(self.script):
            return self.script(json.loads(body["messages"][1]["content"]))
        return self.script[len(self.received) - 1]


def _handler(server):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with server.lock:
                server.received.append(body)
                server.paths.append(self.path)
                server.authorizations.append(self.headers["authorization"])
                server.times.append(time.monotonic())
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
                reply = server.next_reply(body)
            reply.meanwhile()
            if reply.hangs and not server.stopping.wait(20):
                server.waited_in_vain = True
            with server.lock:
                server.at_once -= 1
            if not reply.hangs:
                self.send(reply)

        def send(self, reply):
            self.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            sent = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
            for start in range(0, len(sent), reply.piece or len(sent) or 1):
                self.wfile.write(sent[start : start + (reply.piece or len(sent))])
                if reply.piece and server.stopping.wait(0.05):
                    return

        def handle(self):
            # The client may have closed the connection.
            with suppress(ConnectionError):
                super().handle()

        def finish(self):
            with suppress(ConnectionError):
                super().finish()

        def log_message(self, *_):
            pass

    return Handler
