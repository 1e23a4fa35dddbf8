"""A worker's health and metrics over HTTP: `/live` and `/ready` for an orchestrator, `/metrics` for Prometheus.

A thread of its own answers, so that a worker whose event loop is blocked can be found out.
"""

import json
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from asynctasq.core.loop_watch import LIVE_S
from asynctasq.core.worker import Worker
from asynctasq.errors import ConfigError

__all__ = ["TEXT", "Answer", "Answers", "serve_health"]

LOOPBACK = "127.0.0.1"
REQUEST_S_MAX = 5.0

JSON, TEXT = "application/json", "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """What is answered: 200 if all is well, else 503."""

    well: bool
    body: bytes
    content_type: str = JSON


Answers = Mapping[str, Callable[[], Answer]]
"""Path -> what is answered there; called in a thread of the server."""


@contextmanager
def serve_health(address: str, worker: Worker, more: Answers | None = None) -> Generator[str]:
    """Answer at `[HOST:]PORT` while the context is open; port 0 is a free one. Gives the address as a URL.

    `more` is what else there is to ask for.

    Raises: ConfigError.
    """
    server = _bound(address, {"/live": partial(_live, worker), "/ready": partial(_ready, worker), **(more or {})})
    thread = threading.Thread(target=server.serve_forever, name="asynctasq-health", daemon=True)
    thread.start()
    try:
        host, port = server.server_address[:2]
        yield f"http://{f'[{host!s}]' if server.address_family == socket.AF_INET6 else host!s}:{port}"
    finally:
        server.shutdown()
        server.server_close()


def _live(worker: Worker) -> Answer:
    blocked_s = worker.loop_blocked_s
    return _as_json(blocked_s < LIVE_S, {"live": blocked_s < LIVE_S, "loop_blocked_s": round(blocked_s, 3)})


def _ready(worker: Worker) -> Answer:
    obstacle, blocked_s = worker.obstacle, worker.loop_blocked_s
    if not obstacle and blocked_s >= LIVE_S:
        obstacle = f"the event loop has not run for {blocked_s:.0f} s"
    return _as_json(not obstacle, {"ready": not obstacle, **({"reason": obstacle} if obstacle else {})})


def _as_json(well: bool, fields: Mapping[str, object]) -> Answer:
    return Answer(well, json.dumps(fields).encode() + b"\n")


class _ServerV6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_S_MAX

    def __init__(self, answers: Answers, *arguments: Any) -> None:
        self._answers = answers
        super().__init__(*arguments)  # which handles the request

    def do_GET(self) -> None:
        ask = self._answers.get(self.path.partition("?")[0])
        if ask is None:
            text = f"there is nothing here; ask for {', '.join(self._answers)}"
            self._answer(HTTPStatus.NOT_FOUND, _as_json(False, {"error": text}))
            return
        answer = ask()
        self._answer(HTTPStatus.OK if answer.well else HTTPStatus.SERVICE_UNAVAILABLE, answer)

    do_HEAD = do_GET  # noqa: N815 - the name in `http.server`

    def _answer(self, status: HTTPStatus, answer: Answer) -> None:
        self.send_response(status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        return "asynctasq"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in `http.server`
        """Log nothing: probes come every few seconds."""


def _bound(address: str, answers: Answers) -> ThreadingHTTPServer:
    host, separator, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if separator else LOOPBACK
    if not (port.isascii() and port.isdecimal() and int(port) < 2**16 and host and "/" not in host):
        raise ConfigError(f"health must be a port or HOST:PORT, such as 8080 or 0.0.0.0:8080, not {address!r}")
    try:
        return (_ServerV6 if ":" in host else ThreadingHTTPServer)((host, int(port)), partial(_Handler, answers))
    except OSError as error:
        raise ConfigError(f"health checks can't be answered at {address}: {error.strerror or error}") from error
