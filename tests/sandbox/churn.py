"""A trainer that makes and throws away sandboxes until it is killed: `churn.py ROOT BACKEND`."""

import asyncio
import sys


async def rollouts(pool):
    while True:
        async with pool.acquire() as sandbox:
            await sandbox.exec("setsid sleep 777 & true")


async def main():
    from atropos_agent.sandbox import SandboxPool

    async with SandboxPool(sys.argv[2], size=4) as pool:
        sys.stdout.write("up\n")
        sys.stdout.flush()
        await asyncio.gather(*(rollouts(pool) for _ in range(6)))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    asyncio.run(main())
