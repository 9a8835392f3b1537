"""Real inference servers with the shipped model, each on 127.0.0.1 and ended with its test."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

import httpx

from atropos_agent.policy.embedded import EMBEDDED_MODEL, start_embedded_server
from atropos_agent.policy.protocol import Wire

SHIPPED_GGUF = EMBEDDED_MODEL / "model.gguf"
START_LIMIT_S = 400
LOG_SHOWN = 4000
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}

WIRES = {
    "llama.cpp": (Wire.LLAMA_CPP, Wire.TEXT),
    "vllm": (Wire.VLLM, Wire.VLLM_GENERATE, Wire.CHAT_IDS, Wire.TEXT),
    "transformers": (Wire.TEXT,),
}
"""What each kind of server is asked for."""


@asynccontextmanager
async def serving(kind: str, python: Path | None, gguf: Path = SHIPPED_GGUF) -> AsyncIterator[str]:
    """The URL of a server of this kind, started with the interpreter that has it; llama.cpp with `gguf`."""
    if kind == "llama.cpp":
        embedded = await start_embedded_server(gguf)
        try:
            yield embedded.url
        finally:
            await embedded.aclose()
        return
    assert python is not None, f"--server-python must name the interpreter that has {kind}"
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *_command(kind, python, port),
            stdout=log,
            stderr=log,
            env={**os.environ, **QUIET},
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            await _until_up(url, process, log)
            yield url
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            await process.wait()


def _command(kind: str, python: Path, port: int) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    if kind == "transformers":
        script = python.with_name("transformers")
        return [str(script), "serve", str(EMBEDDED_MODEL), *where, "--device", "cpu"]
    module = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(EMBEDDED_MODEL)]
    named = ["--served-model-name", "tiny", "--max-model-len", "2048"]
    return [*module, *named, *where, "--enforce-eager", "--enable-scale-out"]


async def _until_up(url: str, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(START_LIMIT_S):
            if process.returncode is not None:
                break
            with suppress(httpx.TransportError):
                if (await client.get(f"{url}/health")).status_code == 200:
                    return
            await asyncio.sleep(1)
    log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_SHOWN))
    raise RuntimeError(f"the server did not start; its last words:\n{log.read().decode(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
