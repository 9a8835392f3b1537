"""A pass-through in front of a real server that keeps every completion's request and answer as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that reached the server, and what it answered."""

    path: str
    request: dict[str, Any]
    answer: dict[str, Any]


class RecordingProxy:
    """`async with RecordingProxy(server.url) as proxy`: point a policy at `proxy.url`, read `exchanges`."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.exchanges: list[Exchange] = []
        self.url = ""

    async def __aenter__(self) -> RecordingProxy:
        self._client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)
        application = web.Application(client_max_size=2**26)
        application.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._client.close()

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self._client.request(request.method, self._target + request.path, data=body) as answer:
            content = await answer.read()
        if request.method == "POST" and answer.status == 200:
            self.exchanges.append(Exchange(request.path, json.loads(body), json.loads(content)))
        return web.Response(body=content, status=answer.status, content_type="application/json")
