"""A TCP relay that can fall silent: it carries nothing any more, and closes nothing."""

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

__all__ = ["SilentRelay"]


class SilentRelay:
    """Carries bytes between clients and the server of `url`; `url` is then where clients connect.

    A connection that was open in a silence, or was made in it, stays silent for ever, as where a firewall has forgotten
    it. With `hides_ends` the client of a connection that the server ends is not told. `heard` counts connections,
    `hidden_ends` has the clients' ports of those that the server ended.
    """

    def __init__(self, url: str, *, hides_ends: bool = False) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = parts.hostname, parts.port
        self._hides_ends = hides_ends
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: dict[socket.socket, None] = {}
        self._silent: dict[socket.socket, None] = {}
        self._silence = False
        self.heard = 0
        self.hidden_ends: set[int] = set()
        user, at, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self._listener.getsockname()[1]}"))
        threading.Thread(target=self._accept, daemon=True).start()

    def begin_silence(self) -> None:
        """From now on nothing arrives, in either direction."""
        with self._lock:
            self._silence = True
            self._silent |= self._open
            self._open.clear()

    def end_silence(self) -> None:
        """Connections made from now on carry bytes again."""
        with self._lock:
            self._silence = False

    def close(self) -> None:
        """Accept no more, and cut what there is."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() would not wake a blocked accept()
        self._listener.close()
        with self._lock:
            links = [*self._open, *self._silent]
            self._open.clear()
        for link in links:
            self._cut(link)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    self.heard += 1
                    if self._silence:
                        self._silent[near] = None
                        continue
                self._connect(near)

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._target)
        except OSError:
            near.close()
            return
        with self._lock:
            links = self._silent if self._silence else self._open
            links |= {near: None, far: None}
        for link in (near, far):
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what was carried has arrived
        for source, sink in (near, far), (far, near):
            threading.Thread(target=self._pump, args=(source, sink, source is far), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, from_server: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if source not in self._open:
                    return
                sink.sendall(data)
        with self._lock:
            if source not in self._open:
                return
            if self._hides_ends and from_server:
                self.hidden_ends.add(sink.getpeername()[1])
                return
            del self._open[source]
            self._open.pop(sink, None)
        self._cut(source)
        self._cut(sink)

    def _cut(self, link: socket.socket) -> None:
        with suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)
        link.close()
