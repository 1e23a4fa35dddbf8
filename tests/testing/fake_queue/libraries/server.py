"""A server in the test's own loop that keeps what is posted to it, with aiohttp."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

running_elsewhere: list[str] = []
"""Addresses of servers that run outside of the current loop; the first one is used."""


@asynccontextmanager
async def notes_address() -> AsyncIterator[str]:
    """Return the address of a server, in this loop unless one runs elsewhere."""
    if running_elsewhere:
        yield running_elsewhere[0]
        return
    async with note_server() as url:
        yield url


@asynccontextmanager
async def note_server() -> AsyncIterator[str]:
    """Return the address; POST adds a note, GET /notes lists them, GET /never does not answer."""
    kept: list[str] = []

    async def add(request: web.Request) -> web.Response:
        kept.append(await request.text())
        await asyncio.sleep(0.01)
        return web.Response(status=201)

    async def show(request: web.Request) -> web.Response:
        return web.json_response(kept)

    async def never(request: web.Request) -> web.Response:
        await asyncio.sleep(600)
        raise AssertionError

    app = web.Application()
    app.add_routes([web.post("/notes", add), web.get("/notes", show), web.get("/never", never)])
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
