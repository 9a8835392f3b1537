"""How the cost of a rollout grows with its turns: ratios only, never times."""

import gc
import time
import tracemalloc

import numpy as np

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import HERMES_MARKS, render_call
from atropos_agent.policy.protocol import Capabilities, Wire
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import Completion, LogprobProvenance, Provenance, ToolResult
from tests.tokenizers_for_tests import tokenizer_for

RENDERER = Renderer(tokenizer_for("chatml"), marks=HERMES_MARKS)
CALL = render_call("look", {})


class RepeatingPolicy:
    """Calls a tool `turns` times, then answers; keeps nothing of what it was asked."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    async def probe(self):
        return Capabilities(Wire.IN_PROCESS, "repeating", "test")

    async def complete(self, prompt, sampling, *, request):
        text = CALL if request.step_number <= self.turns else "done"
        ids = np.concatenate([RENDERER.encode(text), RENDERER.certificate.close_ids]).astype(np.int32)
        return Completion(
            text,
            ids,
            logprobs=np.full(len(ids), -0.5, np.float32),
            provenance=Provenance.SAMPLED,
            logprob_provenance=LogprobProvenance.SAMPLED,
        )

    async def aclose(self):
        pass


async def look(call, context):
    return ToolResult(success=True, output="nothing new")


async def run(turns: int):
    config = AgentConfig(max_steps=turns + 1, system_prompt="Look.")
    agent = AtroposAgent(RepeatingPolicy(turns), config=config, tokenizer=RENDERER, execute_tool=look)
    result = await agent.run("look around")
    assert (result.success, result.num_steps) == (True, turns + 1)
    return result


async def cpu_per_turn(turns: int) -> float:
    best = float("inf")
    for _ in range(5):
        gc.collect()
        started = time.process_time()
        await run(turns)
        best = min(best, time.process_time() - started)
    return best / turns


async def peak_bytes(turns: int) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        await run(turns)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_a_turn_costs_about_the_same_late_as_early():
    await run(2)
    assert await cpu_per_turn(200) < 2 * await cpu_per_turn(20)


async def test_the_memory_of_a_rollout_grows_with_its_turns_and_no_faster():
    await run(2)
    assert await peak_bytes(200) < 15 * await peak_bytes(20)
    assert await peak_bytes(50) < 1_000_000
