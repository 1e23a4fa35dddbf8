"""Private servers for tests; for use outside this folder are the names below."""

from asynctasq.testing.servers.recipes import ServerUnavailable
from asynctasq.testing.servers.server import NotPossible, Server, Servers, start_server

__all__ = ["NotPossible", "Server", "ServerUnavailable", "Servers", "start_server"]
