"""What a simulation loop refuses, each with what to do instead: there is no real world inside."""

from collections.abc import Callable
from typing import Any, Final, NoReturn

from asynctasq.testing.errors import RealWorldAccess

__all__ = ["RealWorldRefusals"]

_NETWORK: Final = "replace the client by a fake, or run this test on an ordinary loop with asynctasq's real driver"
_CHILDREN: Final = "replace the command by a fake, or run this test on an ordinary loop"
_SIGNALS: Final = "call what the handler would call, or test signals with a real worker process"

_REFUSED: Final = {
    _NETWORK: (
        "add_reader add_writer create_connection create_datagram_endpoint create_server create_unix_connection "
        "create_unix_server connect_accepted_socket getaddrinfo getnameinfo sendfile start_tls sock_accept "
        "sock_connect sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendfile sock_sendto"
    ),
    _CHILDREN: "connect_read_pipe connect_write_pipe subprocess_exec subprocess_shell",
    _SIGNALS: "add_signal_handler",
}


class RealWorldRefusals:
    """Mixed in before `BaseEventLoop`."""

    def remove_reader(self, fd: Any) -> bool:  # noqa: ARG002 - asyncio's signature
        return False

    def remove_writer(self, fd: Any) -> bool:  # noqa: ARG002 - asyncio's signature
        return False

    def remove_signal_handler(self, sig: int) -> bool:  # noqa: ARG002 - asyncio's signature
        return False


def _refusal(name: str, advice: str) -> Callable[..., NoReturn]:
    def refuse(_: object, *args: Any, **__: Any) -> NoReturn:
        about = f" for {args[0]!r}" if args and isinstance(args[0], str | int) else ""
        raise RealWorldAccess(f"loop.{name}{about}: a simulation has no sockets, signals or processes; {advice}")

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


for _advice, _names in _REFUSED.items():
    for _name in _names.split():
        setattr(RealWorldRefusals, _name, _refusal(_name, _advice))
