"""A hundred slots of one user at once; two of them fork to their limit: `hundred.py ROOT`."""

import asyncio
import contextlib
import sys

FORKS = "n=0; while [ $n -lt 400 ]; do sleep 5 & n=$((n+1)); done; echo all"
PIPELINE = "echo $(seq 50 | sort -n | tail -1) | cat"


async def main():
    from atropos_agent.sandbox import SandboxPool, SandboxSpec

    spec = SandboxSpec(processes=100, memory_bytes=256 << 20, workspace_bytes=1 << 20)
    async with SandboxPool("native", spec, size=100) as pool, contextlib.AsyncExitStack() as stack:
        slots = [await stack.enter_async_context(pool.acquire()) for _ in range(100)]
        results = await asyncio.gather(*(slot.exec(PIPELINE, timeout_s=60) for slot in slots))
        assert {(result.status, result.stdout) for result in results} == {("ok", b"50\n")}, results
        full, other, small = await asyncio.gather(
            slots[0].exec(FORKS, timeout_s=30), slots[1].exec(FORKS, timeout_s=30), slots[2].exec(PIPELINE)
        )
        for result in (full, other):
            assert b"all" not in result.stdout, result
            assert b"Cannot fork" in result.stderr, result
        assert small.stdout == b"50\n", small
    sys.stdout.write("fine\n")


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    asyncio.run(main())
