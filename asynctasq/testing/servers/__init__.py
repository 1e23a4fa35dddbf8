"""Private servers for tests; use from outside only the names below."""

from asynctasq.testing.servers.commands import ServerUnavailable
from asynctasq.testing.servers.server import NotPossible, Server, Servers, start_server

__all__ = ["NotPossible", "Server", "ServerUnavailable", "Servers", "start_server"]
