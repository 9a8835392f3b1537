import logging
from types import SimpleNamespace

import orjson
import pytest

from atropos_agent.config import DebugSettings
from atropos_agent.policy import CallablePolicy, Generated, ManagedPolicy
from atropos_agent.policy.debugging import SHOWN_CHARACTERS, RequestDebugger
from atropos_agent.policy.protocol import RequestInfo
from atropos_agent.trajectory import SamplingParams

URL = "http://host/completion"
LONG = b'{"prompt":"' + b"x" * (SHOWN_CHARACTERS + 1000) + b'"}'


def test_a_long_request_and_answer_are_shown_in_part_and_saved_whole(caplog, tmp_path):
    caplog.set_level(logging.INFO)
    settings = DebugSettings(
        debug_request=True, debug_request_full=True, debug_response=True, request_save_dir=tmp_path
    )
    debugger = RequestDebugger(settings, [])
    debugger.request(URL, LONG, RequestInfo("r", 2))
    debugger.response(URL, 200, LONG)
    shown = [
        record.getMessage() for record in caplog.records if "body" in record.msg or "response" in record.msg
    ]
    assert len(shown) == 2
    assert all(SHOWN_CHARACTERS < len(text) < SHOWN_CHARACTERS + 200 for text in shown)
    (saved,) = tmp_path.glob("*.json")
    assert saved.read_bytes() == LONG


def test_full_and_save_do_nothing_without_the_request_switch(caplog, tmp_path):
    caplog.set_level(logging.INFO)
    settings = DebugSettings(debug_request_full=True, request_save_dir=tmp_path)
    debugger = RequestDebugger(settings, [])
    debugger.request(URL, LONG, RequestInfo())
    debugger.response(URL, 200, LONG)
    assert not caplog.records
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_costs_a_warning_not_the_request(caplog, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    debugger = RequestDebugger(DebugSettings(debug_request=True, request_save_dir=blocked / "in"), [])
    debugger.request(URL, b"{}", RequestInfo())
    assert "request not saved" in caplog.text


class FakeChatServer:
    """An atroposlib-style endpoint whose answers carry its own key."""

    config = SimpleNamespace(model_name="tiny", api_key="sk-secret-key")

    async def chat_completion(self, **asked):
        message = SimpleNamespace(content="hello sk-secret-key")
        return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])


async def generate(prompt_ids, sampling):
    return Generated([4, 9], [-0.25, -0.5], text="hello")


@pytest.mark.parametrize(
    "make",
    [
        lambda debug: ManagedPolicy(FakeChatServer(), debug=debug),
        lambda debug: CallablePolicy(generate, model="tiny", debug=debug),
    ],
)
async def test_requests_to_objects_in_this_process_are_shown_and_saved_too(make, caplog, tmp_path, prompt):
    caplog.set_level(logging.INFO)
    settings = DebugSettings(
        debug_request=True, debug_request_full=True, debug_response=True, request_save_dir=tmp_path
    )
    await make(settings).complete(prompt, SamplingParams(max_tokens=7), request=RequestInfo("r", 2))
    assert "step 2: keys=" in caplog.text
    assert "max_tokens=7" in caplog.text
    assert "request body: {" in caplog.text
    assert "response " in caplog.text
    assert "hello" in caplog.text
    assert "sk-secret-key" not in caplog.text
    (saved,) = tmp_path.iterdir()
    payload = orjson.loads(saved.read_bytes())
    assert "step2" in saved.name
    assert (payload["model"], payload["max_tokens"], payload["n"]) == ("tiny", 7, 1)


async def test_the_summary_of_a_managed_request_counts_its_messages(caplog, prompt):
    caplog.set_level(logging.INFO)
    await ManagedPolicy(FakeChatServer(), debug=DebugSettings(debug_request=True)).complete(
        prompt, SamplingParams()
    )
    assert "num_messages=1" in caplog.text
