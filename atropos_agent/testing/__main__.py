"""A FakeServer as a process: writes `{"url": ...}` on one line and runs until its standard input closes."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import orjson

from atropos_agent.policy.protocol import Wire
from atropos_agent.testing.codecs import TokenizerCodec
from atropos_agent.testing.fake_server import CONTEXT_LENGTH, FakeServer, tool_turns


async def _serve(server: FakeServer, port: int) -> None:
    """Run until standard input closes, so that no server outlives its parent."""
    await server.start(port)
    sys.stdout.write(orjson.dumps({"url": server.url}).decode() + "\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    await server.aclose()


def main() -> None:
    """A server that answers `--turns` times with `--call`, then with `--final`, per session."""
    parser = argparse.ArgumentParser(prog="python -m atropos_agent.testing", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--wire", type=Wire, default=Wire.LLAMA_CPP, choices=list(Wire))
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json or its folder; default: bytes")
    parser.add_argument("--stop-token", default="<|im_end|>")
    parser.add_argument("--turns", type=int, default=0)
    parser.add_argument("--call", default="<tool_call>{}</tool_call>")
    parser.add_argument("--final", default="done")
    parser.add_argument("--context-length", type=int, default=CONTEXT_LENGTH)
    parser.add_argument("--delay-s", type=float, default=0.0)
    given = parser.parse_args()
    codec = None if given.tokenizer is None else TokenizerCodec(given.tokenizer)
    server = FakeServer(
        tool_turns(given.turns, given.call, given.final),
        codec,
        wire=given.wire,
        stop_id=None if codec is None else codec.token_id(given.stop_token),
        context_length=given.context_length,
        delay_s=given.delay_s,
        record=False,
    )
    asyncio.run(_serve(server, given.port))


if __name__ == "__main__":
    main()
