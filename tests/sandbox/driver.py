"""A trainer in miniature, in a process of its own: opens a pool and does what JSON lines on stdin ask for.

Run as `python driver.py PACKAGE_ROOT BACKEND SPEC`; started by the fixtures as root or as an ordinary user.
"""

import asyncio
import base64
import dataclasses
import json
import sys
from contextlib import AsyncExitStack
from typing import Any


def encoded(value):
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if dataclasses.is_dataclass(value):
        return {field.name: encoded(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: encoded(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [encoded(entry) for entry in value]
    return value


def decoded(value) -> Any:
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"])
    if isinstance(value, dict):
        return {key: decoded(entry) for key, entry in value.items()}
    return value


def entry_table(argument):
    """Entries that came as JSON objects, as the dataclass."""
    from atropos_agent.sandbox import FileEntry

    return {path: FileEntry(**entry) for path, entry in argument.items()}


async def serve(pool):
    from atropos_agent.sandbox import SessionKind

    open_stacks = {}
    sandboxes = {}
    for line in iter(sys.stdin.buffer.readline, b""):
        request = json.loads(line)
        name, method = request["sandbox"], request["method"]
        try:
            if method == "open":
                stack = open_stacks[name] = AsyncExitStack()
                sandboxes[name] = await stack.enter_async_context(pool.acquire())
                result = dataclasses.asdict(sandboxes[name].isolation)
            elif method == "close" and name in open_stacks:
                del sandboxes[name]
                result = await open_stacks.pop(name).aclose()
            else:
                call = getattr(sandboxes[name], method)
                arguments = decoded_list(request["args"])
                if method == "restore":
                    arguments = [entry_table(*arguments)]
                if method == "session":
                    arguments = [SessionKind(*arguments)]
                result = await call(*arguments, **decoded(request["options"]))
                if method in ("start", "session"):
                    handle = f"{name}.{len(sandboxes)}"
                    sandboxes[handle] = result
                    result = handle
                if method == "run":
                    result = (result, sandboxes[name].alive)
                result = encoded(result)
            answer = {"result": result}
        except Exception as error:
            answer = {
                "error": type(error).__name__,
                "errno": getattr(error, "errno", None),
                "text": str(error),
            }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def decoded_list(values):
    return [decoded(value) for value in values]


async def main():
    from atropos_agent.sandbox import SandboxPool, SandboxSpec

    async with SandboxPool(sys.argv[2], SandboxSpec(**json.loads(sys.argv[3])), size=4) as pool:
        sys.stdout.write(json.dumps({"isolation": dataclasses.asdict(pool.isolation)}) + "\n")
        sys.stdout.flush()
        await serve(pool)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    asyncio.run(main())
