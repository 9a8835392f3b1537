import logging

from atropos_agent.telemetry import debug_logger, redact


def test_secrets_bearers_and_url_passwords_are_cut_out():
    text = "Authorization: Bearer abc.def and key=sk-123456 at http://me:pw@host/v1"
    shown = redact(text, ["sk-123456"])
    assert shown == "Authorization: Bearer *** and key=*** at http://***@host/v1"


def test_placeholder_keys_do_not_damage_words():
    assert redact("a local server", ["local"]) == "a local server"


def test_debug_output_goes_to_stderr_where_nothing_is_configured(capsys):
    root = logging.getLogger("atropos_agent")
    kept, root.handlers, root.propagate = root.handlers, [], False
    try:
        debug_logger("atropos_agent.sample").info("shown")
    finally:
        root.handlers, root.propagate = kept, True
    printed = capsys.readouterr()
    assert "atropos_agent.sample: shown" in printed.err
    assert printed.out == ""
