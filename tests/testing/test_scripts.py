"""A scripted server as a file, and the command that serves it."""

import json
import signal
import subprocess

import httpx
import pytest

from atropos_agent.errors import ConfigError
from atropos_agent.testing import load_server_script
from tests.fake_server_process import COMMAND, serving
from tests.shipped_model import model_folder

SCRIPT = """
wire: vllm
turns:
  - first
  - {text: second, finish_reason: length}
  - fault: "500"
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text(SCRIPT)
    return path


@pytest.mark.integration
def test_a_session_is_answered_turn_by_turn_and_then_from_the_first_again(script):
    with serving(script) as url, httpx.Client(trust_env=False, base_url=url) as client:
        asked = {"prompt": [1], "max_tokens": 50, "return_token_ids": True}
        named = [client.post("/v1/completions", json=asked, headers={"X-Session-ID": "a"}) for _ in range(4)]
        unnamed = client.post("/v1/completions", json=asked).json()
    assert [answer.status_code for answer in named] == [200, 200, 500, 200]
    choices = [answer.json()["choices"][0] for answer in named if answer.status_code == 200]
    assert [choice["text"] for choice in choices] == ["first", "second", "first"]
    assert [choice["finish_reason"] for choice in choices] == ["stop", "length", "stop"]
    assert choices[0]["token_ids"] == [*b"first", 256]
    assert unnamed["choices"][0]["text"] == "ok"


def test_a_real_tokenizer_makes_real_ids(tmp_path):
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"tokenizer": str(model_folder()), "turns": ["<think>ls</think>"]}))
    server = load_server_script(path).server()
    assert server.codec.decode(server.codec.encode("<think>ls</think>")) == "<think>ls</think>"
    assert server.stop_id == server.codec.encode("<|im_end|>")[0]


@pytest.mark.integration
def test_it_ends_well_with_an_interrupt(script):
    with subprocess.Popen([COMMAND, "fake-server", str(script)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("turns: [{falt: stall}]", "turns.0"),
        ("turns: [{text: hi, fault: stall}]", "a text or a fault, not both"),
        ("turns: [{fault: explode}]", "'stall', 'stall in mid-body'"),
        ("turns: []", "turns"),
        ("wire: sglng\nturns: [a]", "'sglang'"),
        ("tirns: [a]", "did you mean 'turns'"),
        ("[a, b]", "must hold a mapping"),
        ("turns: [a]\ntokenizer: absent", "no tokenizer from absent"),
        ("turns: [", "cannot read"),
    ],
)
def test_a_script_that_cannot_be_names_what_is_wrong_and_possible(tmp_path, text, named):
    path = tmp_path / "script.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_server_script(path).server()


@pytest.mark.integration
def test_a_wrong_script_is_wrong_input(tmp_path):
    done = subprocess.run(
        [COMMAND, "fake-server", str(tmp_path / "absent")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "cannot read the script" in done.stderr
