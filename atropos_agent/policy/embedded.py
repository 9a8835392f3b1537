"""The policy included in the package: llama.cpp's server in a child process, on 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import IO

import httpx
import orjson

from atropos_agent.config import DebugSettings
from atropos_agent.errors import ConfigError, ServerUnreachable
from atropos_agent.policy.debugging import debug_settings
from atropos_agent.policy.http import HttpPolicy
from atropos_agent.policy.protocol import ANONYMOUS, Capabilities, Prompt, RequestInfo, Wire
from atropos_agent.trajectory import Completion, SamplingParams

EMBEDDED_MODEL = Path(__file__).with_name("embedded_model")
CHILD = Path(__file__).with_name("embedded_server.py")
"""Run as a file, not as a module: it must not import this package, so that it starts at once."""
ALIAS = "embedded"
START_LIMIT_S = 60.0
STOP_LIMIT_S = 5.0
LOG_SHOWN = 600


class EmbeddedServer:
    """A running llama.cpp server. It ends with `aclose`, or with this process."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: IO[bytes]) -> None:
        self._process = process
        self._log = log
        self.url = url

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self._process.pid

    @property
    def obituary(self) -> str | None:
        """Exit status and last output of the child, as text; None while it runs."""
        if self._process.returncode is None:
            return None
        return f"the embedded server ended with status {self._process.returncode}: {_last_words(self._log)}"

    async def aclose(self) -> None:
        """Stop the child: SIGTERM, then SIGKILL after STOP_LIMIT_S. Idempotent."""
        await _end(self._process)
        self._log.close()


async def start_embedded_server(
    model_path: Path,
    *,
    parallel: int = 16,
    context_per_slot: int = 2048,
    threads: int = 1,
    start_limit_s: float = START_LIMIT_S,
) -> EmbeddedServer:
    """Serve a GGUF file with `parallel` slots of `context_per_slot` tokens each.

    Raises ConfigError (no xllamacpp, no model), ServerUnreachable (it failed, or did not start in time).
    """
    _require_parts(model_path)
    settings = {
        "model": str(model_path),
        "alias": ALIAS,
        "parallel": parallel,
        "context_per_slot": context_per_slot,
        "threads": threads,
        "parent_pid": os.getpid(),
    }
    # a file, not a pipe: we read it only after the server has ended, and a full pipe would block the child
    log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # else this folder is first on sys.path, and our `http.py` hides the standard library's
        str(CHILD),
        orjson.dumps(settings).decode(),
        stdin=asyncio.subprocess.PIPE,  # the child ends when this pipe closes
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # Ctrl-C in a terminal must not reach the child: we stop it ourselves
    )
    try:
        async with asyncio.timeout(start_limit_s):
            return EmbeddedServer(process, await _healthy_url(process), log)
    except (TimeoutError, ValueError, httpx.HTTPError):
        await _end(process)
        reason = _last_words(log)
        log.close()
        raise ServerUnreachable(f"the embedded server did not start with {model_path}: {reason}") from None
    except BaseException:  # also when the caller is cancelled: the child must not stay
        await _end(process)
        log.close()
        raise


class EmbeddedPolicy:
    """An HttpPolicy with its own llama.cpp server, which starts at the first request.

    `model_path` is a GGUF file; its tokenizer must be in the same folder. Default: the included model.
    `parallel` requests run at once; the others wait here.
    """

    def __init__(
        self,
        model_path: Path | None = None,
        *,
        parallel: int = 16,
        context_per_slot: int = 2048,
        threads: int = 1,
        debug: DebugSettings | None = None,
    ) -> None:
        self._model_path = EMBEDDED_MODEL / "model.gguf" if model_path is None else model_path
        self._parallel = parallel
        self._context_per_slot = context_per_slot
        self._threads = threads
        self._debug = debug_settings(debug)
        self._starting = asyncio.Lock()  # renewed by `aclose`: a lock belongs to the loop that waited for it
        self._server: EmbeddedServer | None = None
        self._http: HttpPolicy | None = None

    async def __aenter__(self) -> EmbeddedPolicy:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def tokenizer_path(self) -> Path:
        """The folder of the model's tokenizer."""
        return self._model_path.parent

    @property
    def server(self) -> EmbeddedServer | None:
        """The child, once it is started."""
        return self._server

    async def probe(self) -> Capabilities:
        """Start the server if it does not run, and probe it. Raises ConfigError, ProviderError."""
        return await (await self._running()).probe()

    async def complete(
        self, prompt: Prompt, sampling: SamplingParams, *, request: RequestInfo = ANONYMOUS
    ) -> Completion:
        """One completion. Raises ProviderError; its text says if the child process has died."""
        http = self._http or await self._running()
        try:
            return await http.complete(prompt, sampling, request=request)
        except ServerUnreachable as error:
            if self._server is None or (obituary := self._server.obituary) is None:
                raise
            raise ServerUnreachable(f"{obituary} ({error})") from None

    async def aclose(self) -> None:
        """Stop the server. Idempotent; the next request starts a new one."""
        self._starting = asyncio.Lock()
        http, self._http = self._http, None
        server, self._server = self._server, None
        if http is not None:
            await http.aclose()
        if server is not None:
            await server.aclose()

    async def _running(self) -> HttpPolicy:
        async with self._starting:
            if self._http is None:
                self._server = await start_embedded_server(
                    self._model_path,
                    parallel=self._parallel,
                    context_per_slot=self._context_per_slot,
                    threads=self._threads,
                )
                wire = None if self._debug.bypass_managed_server else Wire.LLAMA_CPP
                self._http = HttpPolicy(
                    self._server.url, wire=wire, max_concurrency=self._parallel, debug=self._debug
                )
            return self._http


def _require_parts(model_path: Path) -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise ConfigError("the embedded policy needs llama.cpp: pip install 'atropos-agent[local]'")
    if not model_path.is_file():
        raise ConfigError(f"no model at {model_path}: give a GGUF file")


async def _healthy_url(process: asyncio.subprocess.Process) -> str:
    """The URL from the child's output, once the server is healthy. ValueError if the child ends first."""
    # an empty line means that the child ended: it is not valid JSON, and orjson raises a ValueError
    line = await process.stdout.readline() if process.stdout is not None else b""
    url = str(orjson.loads(line)["url"])
    async with httpx.AsyncClient(trust_env=False) as client:
        while (await client.get(f"{url}/health")).status_code != httpx.codes.OK:  # noqa: ASYNC110 - remote
            await asyncio.sleep(0.02)
    return url


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    return " ".join(log.read().decode(errors="replace").split())[-LOG_SHOWN:] or "no output"
