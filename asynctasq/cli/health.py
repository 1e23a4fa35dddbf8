"""A worker's health over HTTP, for the probes of an orchestrator: `/live` and `/ready`, 200 or 503.

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
from typing import Any

from asynctasq.core.loop_watch import LIVE_S
from asynctasq.core.worker import Worker
from asynctasq.errors import ConfigError

__all__ = ["serve_health"]

LOOPBACK = "127.0.0.1"
REQUEST_S_MAX = 5.0

Report = tuple[bool, Mapping[str, object]]
"""Whether all is well, and what the answer says."""
Reports = Mapping[str, Callable[[], Report]]


@contextmanager
def serve_health(address: str, worker: Worker) -> Generator[str]:
    """Answer at `[HOST:]PORT` while the context is open; port 0 is a free one. Gives the address as a URL.

    Raises: ConfigError.
    """
    server = _bound(address, {"/live": partial(_live, worker), "/ready": partial(_ready, worker)})
    thread = threading.Thread(target=server.serve_forever, name="asynctasq-health", daemon=True)
    thread.start()
    try:
        host, port = server.server_address[:2]
        yield f"http://{f'[{host!s}]' if server.address_family == socket.AF_INET6 else host!s}:{port}"
    finally:
        server.shutdown()
        server.server_close()


def _live(worker: Worker) -> Report:
    blocked_s = worker.loop_blocked_s
    return blocked_s < LIVE_S, {"live": blocked_s < LIVE_S, "loop_blocked_s": round(blocked_s, 3)}


def _ready(worker: Worker) -> Report:
    obstacle, blocked_s = worker.obstacle, worker.loop_blocked_s
    if not obstacle and blocked_s >= LIVE_S:
        obstacle = f"the event loop has not run for {blocked_s:.0f} s"
    return not obstacle, {"ready": not obstacle, **({"reason": obstacle} if obstacle else {})}


class _ServerV6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_S_MAX

    def __init__(self, reports: Reports, *arguments: Any) -> None:
        self._reports = reports
        super().__init__(*arguments)  # which handles the request

    def do_GET(self) -> None:
        report = self._reports.get(self.path.partition("?")[0])
        if report is None:
            known = ", ".join(self._reports)
            self._answer(HTTPStatus.NOT_FOUND, {"error": f"there is nothing here; ask for {known}"})
            return
        well, fields = report()
        self._answer(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, fields)

    do_HEAD = do_GET  # noqa: N815 - the name in `http.server`

    def _answer(self, status: HTTPStatus, fields: Mapping[str, object]) -> None:
        body = json.dumps(fields).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "asynctasq"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in `http.server`
        """Log nothing: probes come every few seconds."""


def _bound(address: str, reports: Reports) -> ThreadingHTTPServer:
    host, separator, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if separator else LOOPBACK
    if not (port.isascii() and port.isdecimal() and int(port) < 2**16 and host and "/" not in host):
        raise ConfigError(f"health must be a port or HOST:PORT, such as 8080 or 0.0.0.0:8080, not {address!r}")
    try:
        return (_ServerV6 if ":" in host else ThreadingHTTPServer)((host, int(port)), partial(_Handler, reports))
    except OSError as error:
        raise ConfigError(f"health checks can't be answered at {address}: {error.strerror or error}") from error
