import logging

from atropos_agent.config import DebugSettings
from atropos_agent.policy.debugging import SHOWN_CHARACTERS, RequestDebugger
from atropos_agent.policy.protocol import RequestInfo

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
    (saved,) = tmp_path.iterdir()
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
