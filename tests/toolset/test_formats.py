from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.toolset.arguments.formats import FORMATS, format_checker

CHECKER = format_checker()
FITTING = {
    "date": ["2024-02-29"],
    "date-time": ["2026-01-31t23:59:60.5z", "1990-12-31T15:59:59-08:00"],
    "duration": ["P1Y2M3D", "PT0S", "P3W", "P1DT12H"],
    "email": ["a+b@c.d"],
    "hostname": ["localhost", "xn--bcher-kva.example", "a" * 63 + ".b"],
    "ipv4": ["0.0.0.0"],
    "ipv6": ["::", "::ffff:192.0.2.1"],
    "json-pointer": ["", "/a~1b/~0/0"],
    "time": ["00:00:00.123+05:30"],
    "uri": ["urn:isbn:1", "http://[::1]:80/a%20b?c#d", "mailto:a@b.c"],
    "uri-reference": ["", "../a", "#b", "//host/path"],
    "uuid": ["AAAAAAAA-AAAA-AAAA-AAAA-AAAAAAAAAAAA"],
}
UNFIT = {
    "date": ["2026-02-30", "20260131", "2026-W05-6", "26-1-31", "2026-01-31\n"],
    "date-time": ["2026-01-31", "2026-01-31 12:00:00Z", "2026-01-31T12:00:00", "2026-01-31T24:00:00Z"],
    "duration": ["P", "PT", "1D", "P1H", "P1.5D", "P1W2D"],
    "email": ["a", "@b", "a@", "a b@c", "a@b@c"],
    "hostname": ["", "-a", "a..b", "a_b", "a" * 64, "a.b."],
    "ipv4": ["1.2.3", "1.2.3.256", "01.2.3.4"],
    "ipv6": ["1.2.3.4", ":::", "fe80::1%eth0"],
    "json-pointer": ["a", "/~2", "#/a"],
    "time": ["12:00:00", "12:60:00Z", "12:00:61Z", "12:00:00+24:00"],
    "uri": ["/a", "http://[::1", "http://a:x/", "http://a b", "http://a/%zz"],
    "uri-reference": ["a b", "\\\\a", "http://a:99999/"],
    "uuid": ["a" * 32, "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaag"],
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_takes_its_own_and_nothing_else(name: str):
    for text in [FORMATS[name].example, *FITTING[name]]:
        assert CHECKER.conforms(text, name), text
    for text in UNFIT[name]:
        assert not CHECKER.conforms(text, name), text


@given(st.sampled_from(list(FORMATS)), st.text())
def test_any_text_is_answered_with_yes_or_no(name: str, text: str):
    assert CHECKER.conforms(text, name) in (True, False)


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_moment_is_a_date_time(moment: datetime):
    assert CHECKER.conforms(moment.isoformat(), "date-time")


@pytest.mark.parametrize("value", [None, 1, True, [], {}])
def test_what_is_no_text_has_every_format(value: object):
    assert all(CHECKER.conforms(value, name) for name in FORMATS)
