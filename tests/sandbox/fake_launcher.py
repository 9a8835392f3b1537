"""A launcher without processes: each launch ends when the test says so, and as it says."""

import asyncio

from atropos_agent.errors import SandboxError
from atropos_agent.sandbox.admission import declared_bytes
from atropos_agent.sandbox.protocol import Isolation


class FakeSlot:
    """Lives until it is closed or killed; `fit` is what a reset finds."""

    def __init__(self, launcher, size):
        self.size = size
        self.alive = True
        self.fit = True
        self.uses = 0
        self._launcher = launcher

    @property
    def isolation(self):
        return self._launcher.isolation

    async def reset(self):
        await asyncio.sleep(0)
        if not self.alive:
            raise SandboxError("lost")
        return self.fit

    async def close(self):
        self.alive = False
        await asyncio.sleep(0)
        if self in self._launcher.living:
            self._launcher.living.remove(self)


class FakeLauncher:
    """`pending` are launches under way, oldest first."""

    def __init__(self, spec, *, at_once=False):
        self.isolation = Isolation("fake", unsafe=True, limits={"memory": "watcher"})
        self.living = []
        self.pending = []
        self.at_once = at_once
        self.failure = None
        self.closed = False
        self._spec = spec

    async def launch(self, spec=None):
        size = declared_bytes(spec or self._spec)
        if self.at_once:
            await asyncio.sleep(0)
            if self.failure is not None:
                raise self.failure
        else:
            told = asyncio.get_running_loop().create_future()
            self.pending.append((size, told))
            try:
                await told
            finally:
                self.pending.remove((size, told))
        slot = FakeSlot(self, size)
        self.living.append(slot)
        return slot

    async def start(self):
        return

    async def close(self):
        self.closed = True
        assert not self.living
        assert not self.pending
