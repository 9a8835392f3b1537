"""An HTTP proxy that keeps every exchange, so that a record can be held against the wire itself."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Self

from aiohttp import ClientSession, web


@dataclass
class Exchange:
    """One request and its answer, both decoded."""

    session: str
    path: str
    request: dict
    reply: dict


@dataclass
class RecordingProxy:
    """Passes everything on to `upstream` and keeps the POSTs in `exchanges`, in order of their answers."""

    upstream: str
    exchanges: list[Exchange] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._client = ClientSession()
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._client.close()
        await asyncio.sleep(0)

    async def _pass_on(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {"Content-Type": request.content_type}
        async with self._client.request(
            request.method, self.upstream + request.path_qs, data=body, headers=headers
        ) as answer:
            reply = await answer.read()
            if request.method == "POST" and answer.status == 200:
                session = request.headers.get("X-Session-ID", "")
                self.exchanges.append(Exchange(session, request.path, json.loads(body), json.loads(reply)))
            return web.Response(body=reply, status=answer.status, content_type=answer.content_type)
