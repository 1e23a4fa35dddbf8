"""Log records of child processes: sent to the worker, whose own logging handles them.

Task code in the child can reach the connection, so the worker takes only frames that are well formed, and bounded.
"""

import logging
import os
import socket
import struct
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any, cast

from asynctasq.codec.typed_msgpack import packb, unpackb
from asynctasq.core.exception_codec import pack_exception, unpack_exception
from asynctasq.kernel.messages import bounded_text
from asynctasq.logs import STANDARD_FIELDS, extra_text, get_logger

__all__ = ["ChildLog", "RecordSender", "log_levels", "send_records"]

logger = get_logger(__name__)

LENGTH = struct.Struct(">I")
FRAME_BYTES_MAX = 512 * 1024
TEXT_BYTES_MAX = 64 * 1024
EXTRAS_MAX = 100
"""How many fields a record may have by `extra`."""
LEVELS_MAX = 1_000
CLOSE_S_MAX = 1.0
"""How long the last records of a child that has ended may take to be handled."""
SEND_S_MAX = 5.0
"""How long a child waits for a worker that does not read; then it sends no further records."""
CONTEXTS_MAX = 4
"""Of so many attempts records may still arrive when the next has begun."""


def log_levels() -> dict[str, int]:
    """Return the levels of the loggers that have one of their own, the root's by the name ""."""
    named = list(logging.root.manager.loggerDict.items())[:LEVELS_MAX]
    levels = {name: one.level for name, one in named if isinstance(one, logging.Logger) and one.level}
    return {"": logging.root.level, **levels}


# -- the worker's end ----------------------------------------------------------------------------


class ChildLog:
    """Reads the records of one child in a thread, and handles each in the context of the attempt it was made in."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._contexts: OrderedDict[str, Context] = OrderedDict()
        self._thread = threading.Thread(target=self._read, name="asynctasq-child-log", daemon=True)
        self._thread.start()

    def begin(self, message_id: str, context: Context) -> None:
        """Note the context of the attempt that begins."""
        self._contexts[message_id] = context
        while len(self._contexts) > CONTEXTS_MAX:
            self._contexts.popitem(last=False)

    def close(self) -> None:
        """End when all is read that a dead child has sent; what a process may hold open that it started is not read."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RD)
        self._thread.join(CLOSE_S_MAX)

    def _read(self) -> None:
        with self._connection:
            while (header := _receive(self._connection, LENGTH.size)) is not None:
                (count,) = LENGTH.unpack(header)
                frame = _receive(self._connection, count) if count <= FRAME_BYTES_MAX else None
                if frame is None:
                    return
                try:
                    message_id, record = decode_record(frame)
                except (ValueError, TypeError, KeyError) as error:
                    logger.warning("a child process sent a log record that can't be read: %s", error)
                    return
                context = self._contexts.get(message_id) or copy_context()
                context.copy().run(_handle, record)


def _handle(record: logging.LogRecord) -> None:
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        try:
            target.handle(record)
        except Exception:
            logger.warning("a log record of a child process could not be handled", exc_info=True)


def _receive(connection: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        try:
            chunk = connection.recv(count - len(data))
        except OSError:
            return None
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def decode_record(frame: bytes) -> tuple[str, logging.LogRecord]:
    """Return the id of the attempt's message and the record.

    Raises: ValueError, TypeError, KeyError for other bytes.
    """
    message_id, fields, extras, error = cast(
        "tuple[str, dict[str, Any], dict[str, object], bytes | None]", unpackb(frame)
    )
    own = {str(name): value for name, value in extras.items() if name not in STANDARD_FIELDS}
    record = logging.makeLogRecord({**own, **{name: _checked(name, fields[name]) for name in FIELDS}})
    record.levelname = logging.getLevelName(record.levelno)
    if error is not None:
        exception = unpack_exception(error)
        record.exc_info = (type(exception), exception, exception.__traceback__)
    return str(message_id), record


FIELDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "msg", "pathname", "filename", "module", "processName", "threadName"), str),
    **dict.fromkeys(("levelno", "lineno", "process", "thread"), int),
    **dict.fromkeys(("created", "msecs", "relativeCreated"), float),
    **dict.fromkeys(("funcName", "stack_info"), (str, type(None))),
}
"""What a record is made of again, and of which types."""


def _checked(name: str, value: object) -> object:
    if not isinstance(value, FIELDS[name]):
        raise TypeError(f"{name} is {type(value).__name__}")
    return value


# -- the child's end -----------------------------------------------------------------------------


class RecordSender(logging.Handler):
    """Sends each record to the worker; `message_id` is that of the attempt that runs."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        connection.settimeout(SEND_S_MAX)
        connection.set_inheritable(False)
        self._connection: socket.socket | None = connection
        self.message_id = ""
        os.register_at_fork(after_in_child=self._drop)  # two processes would mix their frames

    def emit(self, record: logging.LogRecord) -> None:
        if self._connection is None:
            return
        try:
            frame = encode_record(self.message_id, record)
        except Exception:  # noqa: BLE001 - the record's arguments are user code
            self.handleError(record)
            return
        try:
            self._connection.sendall(LENGTH.pack(len(frame)) + frame)
        except OSError:  # part of a frame may be sent: nothing behind it could be read
            self._drop()
            sys.stderr.write("asynctasq: log records of this process are lost: its worker does not read them\n")

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def encode_record(message_id: str, record: logging.LogRecord) -> bytes:
    """Return a record as bytes: texts bounded, of extra fields what is plain, else its `repr`."""
    fields = {name: _plain(record.__dict__.get(name)) for name in FIELDS}
    message = record.getMessage().encode("utf-8", "backslashreplace").decode()
    fields["msg"] = bounded_text(message, TEXT_BYTES_MAX)
    extras = [(name, value) for name, value in record.__dict__.items() if name not in STANDARD_FIELDS]
    plain = {str(name): _plain(value) for name, value in extras[:EXTRAS_MAX]}
    error = record.exc_info[1] if record.exc_info else None
    frame = packb([message_id, fields, plain, None if error is None else pack_exception(error)])
    if len(frame) > FRAME_BYTES_MAX:
        frame = packb([message_id, fields, {}, None])
    return frame


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return extra_text(value)


def send_records(connection: socket.socket, levels: Mapping[str, int]) -> RecordSender:
    """Let the root logger send what is logged from now on, at the worker's levels; a configuration replaces that."""
    sender = RecordSender(connection)
    logging.root.addHandler(sender)
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    return sender
