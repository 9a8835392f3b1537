import numpy as np
import pytest

from atropos_agent.policy.protocol import Prompt
from atropos_agent.testing import ByteCodec


@pytest.fixture
def prompt() -> Prompt:
    text = "user: hi\n"
    made = Prompt([{"role": "user", "content": "hi"}])
    made.extend(np.array(ByteCodec().encode(text), np.int32), text)
    return made
