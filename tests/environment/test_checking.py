import asyncio
import itertools
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from atropos_agent.environment import Reference, Rule, check_environment, require_all
from atropos_agent.errors import TaskError
from atropos_agent.trajectory import Score
from atropos_environments.terminal_tasks import TerminalTasks
from tests.environment.echoing import Echo, EchoConfig, Word

COUNTER = itertools.count()
KEPT = []


class Unseeded(Echo):
    async def get_next_item(self):
        return Word(f"word{next(COUNTER)}")


class OtherContents(Echo):
    async def get_next_item(self):
        item = await super().get_next_item()
        return item and Word(item.id, {"drawn": next(COUNTER)})


class TwoUnderOneName(Echo):
    async def get_next_item(self):
        item = await super().get_next_item()
        return item and Word("same", {"is": item.id})


class Nameless(Echo):
    async def get_next_item(self):
        return Word("") if await super().get_next_item() else None

    def score_trajectory(self, item, final_response):
        return float(final_response == "right")

    async def reference(self, item):
        return Reference((), "right")


class LooksUpAnother(Echo):
    async def get_item(self, item_id):
        return Word("another")


class Unpicklable(Echo):
    async def get_next_item(self):
        item = await super().get_next_item()
        return item and Word(item.id, {"check": lambda answer: True})


class WrongReference(Echo):
    async def reference(self, item):
        return Reference((), "no idea")


class NoReference(Echo):
    async def reference(self, item):
        raise LookupError("lost")


class Generous(Echo):
    async def verify_and_score_trajectory(self, item, final_response, **_):
        return Score(max(self.score_trajectory(item, final_response), 0.1))


class Unscorable(Echo):
    async def play(self, item, run):
        raise ConnectionError("the simulated user is out")


class LeaksATask(Echo):
    async def setup(self):
        await super().setup()
        KEPT.append(asyncio.create_task(asyncio.Event().wait()))


class LeaksAThread(Echo):
    async def setup(self):
        await super().setup()
        release = threading.Event()
        threading.Thread(target=release.wait, daemon=True).start()
        KEPT.append(release)


class LeaksAProcess(Echo):
    async def setup(self):
        await super().setup()
        KEPT.append(subprocess.Popen(["/bin/sleep", "600"]))  # noqa: ASYNC220 - what authors do


class LeaksADescriptor(Echo):
    async def setup(self):
        await super().setup()
        KEPT.append(Path("/dev/null").open())  # noqa: ASYNC230, SIM115 - what authors do


class LeaksASandbox(Echo):
    needs_sandbox = True

    async def setup(self):
        await super().setup()
        KEPT.append(self.sandbox())
        await KEPT[-1].__aenter__()


class Closed(Echo):
    async def setup(self):
        raise FileNotFoundError("no data")


class Empty(Echo):
    async def get_next_item(self):
        return None


@pytest.fixture(autouse=True)
async def leftovers():
    """End what the leaking environments left."""
    yield
    while KEPT:
        match KEPT.pop():
            case asyncio.Task() as task:
                task.cancel()
            case threading.Event() as event:
                event.set()
            case subprocess.Popen() as process:
                process.kill()
                process.wait()
            case file if hasattr(file, "close"):
                file.close()
            case lease:
                await lease.__aexit__(None, None, None)


async def broken(env_type, **config):
    findings = await check_environment(partial(env_type, config=EchoConfig(**config)), items=3)
    return {finding.rule: finding.detail for finding in findings if not finding.holds}


async def test_a_good_environment_passes_every_rule_in_order():
    findings = await check_environment(Echo)
    assert [finding.rule for finding in findings] == list(Rule)
    assert [finding for finding in findings if not finding.holds or finding.detail] == []
    require_all(findings)


@pytest.mark.integration
async def test_terminal_tasks_pass():
    require_all(await check_environment(TerminalTasks))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_type", "rule", "said"),
    [
        (Unseeded, Rule.DETERMINISTIC, "item 1 was 'word"),
        (OtherContents, Rule.DETERMINISTIC, "has other contents in another instance"),
        (TwoUnderOneName, Rule.IDS, "item 'same': another item has the same id"),
        (Nameless, Rule.IDS, "a text that is not empty, got ''"),
        (LooksUpAnother, Rule.IDS, "get_item gives another item for this id"),
        (Unpicklable, Rule.PICKLABLE, "pickle"),
        (WrongReference, Rule.REFERENCES, "its reference solution scores 0"),
        (NoReference, Rule.REFERENCES, "LookupError: lost"),
        (Generous, Rule.EMPTY, "a rollout with an empty answer earned 0.1"),
        (Unscorable, Rule.EMPTY, "could not be scored: play of .* the simulated user is out"),
        (LeaksATask, Rule.LEAKS, "task Task-.* of Event.wait"),
        (LeaksAThread, Rule.LEAKS, "thread Thread-"),
        (LeaksADescriptor, Rule.LEAKS, "descriptor .* of /dev/null"),
    ],
)
async def test_what_is_broken_is_found_and_nothing_else(env_type, rule, said):
    found = await broken(env_type)
    assert list(found) == [rule], found
    with pytest.raises(TaskError, match=said):
        require_all(await check_environment(env_type, items=1 if rule is not Rule.IDS else 2))


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="processes are seen in /proc")
async def test_a_process_that_is_left_is_found():
    found = await broken(LeaksAProcess)
    assert list(found) == [Rule.LEAKS]
    assert "child process" in found[Rule.LEAKS]
    assert "(sleep)" in found[Rule.LEAKS]


@pytest.mark.integration
async def test_a_sandbox_that_is_never_given_back_is_found():
    found = await broken(LeaksASandbox)
    assert list(found) == [Rule.LEAKS]
    assert "sandbox auto" in found[Rule.LEAKS]


@pytest.mark.parametrize(
    ("env_type", "said"), [(Closed, "FileNotFoundError: no data"), (Empty, "it gave no items")]
)
async def test_without_items_there_is_one_finding(env_type, said):
    (finding,) = await check_environment(env_type)
    assert (finding.rule, finding.holds, finding.detail) == (Rule.OPENS, False, said)


class Arrays(Echo):
    """Its items have no truth value when they are compared."""

    async def get_next_item(self):
        item = await super().get_next_item()
        return item and Word(item.id, {"weights": np.arange(3)})


class Repeating(Echo):
    """Walks over its items twice."""

    async def setup(self):
        self._words = iter(["abc", "def"] * 2)


@pytest.mark.parametrize("env_type", [Arrays, Repeating])
async def test_unusual_items_are_compared_by_content(env_type):
    require_all(await check_environment(env_type))
