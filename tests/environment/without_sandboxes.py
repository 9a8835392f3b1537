"""`without_sandboxes.py ROOT ENVIRONMENT FOLDER`: opens an environment as a run does, against a server that
answers "done", and prints one rollout, or why it does not open."""

import asyncio
import json
import sys
from pathlib import Path


async def main(environment, folder):
    from atropos_agent.config import load_run_config
    from atropos_agent.environment import open_environment
    from atropos_agent.errors import SandboxUnavailable
    from atropos_agent.policy.protocol import Wire
    from atropos_agent.testing import FakeServer, TokenizerCodec
    from tests.tokenizers_for_tests import tokenizer_for

    tokenizer_for("chatml").save_pretrained(folder)
    codec = TokenizerCodec(Path(folder))
    stop_id = codec.token_id("<|im_end|>")
    async with FakeServer(lambda ask: "done", codec, wire=Wire.LLAMA_CPP, stop_id=stop_id) as server:
        config = {
            "environment": environment,
            "policy": {"base_url": server.url, "tokenizer": folder},
            "env": {"group_size": 2},
        }
        try:
            async with open_environment(load_run_config(None, defaults=config, environ={})) as env:
                rollout = await env.rollout(await env.get_next_item())
                group, _ = await env.collect_trajectories(await env.get_next_item())
        except SandboxUnavailable as error:
            return f"refused: {error}"
    rows = len(group["tokens"])
    return json.dumps({"score": rollout.score, "isolation": rollout.isolation, "rows": rows})


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    sys.stdout.write(asyncio.run(main(*sys.argv[2:])))
