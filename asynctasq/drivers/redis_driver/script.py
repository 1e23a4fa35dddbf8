"""The server-side scripts: read from the package once, put together from their parts, named by their digest."""

import functools
import hashlib
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["Script", "load_script"]

# What a script consists of, and whether it may run while the server is at its memory limit: settling and
# reserving must, or a full server could never be drained again; only new messages are refused.
PARTS: dict[str, tuple[tuple[str, ...], str]] = {
    "enqueue": (("common", "store", "enqueue"), ""),
    "turn": (("common", "store", "settle", "reserve", "turn"), " flags=allow-oom"),
    "extend": (("common", "extend"), " flags=allow-oom"),
    "redrive": (("common", "redrive"), " flags=allow-oom"),
    "look": (("common", "look"), " flags=allow-oom"),
    "pass_on": (("common", "pass_on"), " flags=allow-oom"),
    "result": (("common", "result"), " flags=allow-oom"),
    "remove": (("common", "remove"), " flags=allow-oom"),
    "purge": (("common", "purge"), " flags=allow-oom"),
    "depth": (("common", "depth"), " flags=no-writes"),
    "show": (("common", "show"), " flags=no-writes"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One script as the server gets it, and the digest by which it is called."""

    name: str
    text: bytes
    digest: str


@functools.cache
def load_script(name: str, *, with_flags: bool) -> Script:
    """Return a script; `with_flags` for servers that know script flags, that is Redis 7 and Valkey."""
    parts, flags = PARTS[name]
    folder = files("asynctasq.drivers.redis_driver") / "scripts"
    texts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts]
    text = ((f"#!lua{flags}\n" if with_flags else "") + "\n".join(texts)).encode()
    return Script(name=name, text=text, digest=hashlib.sha1(text, usedforsecurity=False).hexdigest())
