"""`fake-server`: a scripted inference server, to test a client against chosen answers and faults."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from atropos_agent.cli.console import FAILED, exits, fail
from atropos_agent.testing import FakeServer, Fault, load_server_script

SCRIPT = "{wire: vllm, turns: ['<tool_call>...</tool_call>', {fault: stall in mid-body}, done]}"
EPILOG = f"""Example:

atropos-agent fake-server script.yaml --port 8000

A script is a YAML or JSON file such as {SCRIPT}

Faults: {", ".join(Fault)}
"""


def fake_server(
    script: Annotated[Path, typer.Argument(help="A YAML or JSON file: wire, tokenizer, turns, faults.")],
    port: Annotated[int, typer.Option(help="On 127.0.0.1; 0 takes a free one.")] = 0,
    until_eof: Annotated[bool, typer.Option(help="Stop when standard input closes.")] = False,
) -> None:
    """Serve scripted completions on 127.0.0.1 until Ctrl-C; the URL is the first line of output."""
    with exits():
        server = load_server_script(script).server()
        asyncio.run(_serve(server, port, until_eof=until_eof))


async def _serve(server: FakeServer, port: int, *, until_eof: bool) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        await server.start(port)
    except OSError as error:
        fail(f"cannot listen on 127.0.0.1:{port}: {error.strerror}; give another --port", FAILED)
    typer.echo(server.url)
    sys.stdout.flush()  # a parent process waits for the URL on a pipe, which is block-buffered
    waiting: list[asyncio.Task[object]] = [loop.create_task(stopped.wait())]
    if until_eof:  # a parent that holds our stdin stops us even if it is killed
        waiting.append(loop.create_task(_end_of_input()))
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await server.aclose()


async def _end_of_input() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
