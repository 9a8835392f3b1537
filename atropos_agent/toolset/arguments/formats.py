"""The values of `format` that are checked, with the standard library alone. Each check takes linear time."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from urllib.parse import urlsplit

from jsonschema import FormatChecker

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:Z|[+-](\d\d):(\d\d))", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(
    r"P(?:\d+W|(?=[\dT])(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+S)?)?)", re.ASCII
)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,255}")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_URI_TEXT = re.compile(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9a-f]{2})*", re.ASCII | re.IGNORECASE)
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*", re.DOTALL)


def _is_date(text: str) -> bool:
    return _DATE.fullmatch(text) is not None and date.fromisoformat(text) is not None


def _is_time(text: str) -> bool:
    found = _TIME.fullmatch(text)
    if found is None:
        return False
    hour, minute, second, offset_hour, offset_minute = (int(part or 0) for part in found.groups())
    # 60 is a leap second
    return max(hour, offset_hour) <= 23 and max(minute, offset_minute) <= 59 and second <= 60


def _is_date_time(text: str) -> bool:
    return text[10:11] in ("T", "t") and _is_date(text[:10]) and _is_time(text[11:])


def _is_hostname(text: str) -> bool:
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))


def _is_uri_reference(text: str) -> bool:
    # urlsplit raises ValueError for a bad address in brackets, `port` for a bad port
    return _URI_TEXT.fullmatch(text) is not None and (urlsplit(text).port or 0) >= 0


def _is_uri(text: str) -> bool:
    return _SCHEME.match(text) is not None and _is_uri_reference(text)


def _is_ipv6(text: str) -> bool:
    return "%" not in text and ipaddress.IPv6Address(text) is not None


@dataclass(frozen=True, slots=True)
class Format:
    """`accepts` returns False or raises ValueError for what is not of the format."""

    accepts: Callable[[str], bool]
    example: str


FORMATS: Mapping[str, Format] = {
    "date": Format(_is_date, "2026-01-31"),
    "date-time": Format(_is_date_time, "2026-01-31T12:00:00Z"),
    "duration": Format(lambda text: _DURATION.fullmatch(text) is not None, "PT1H30M"),
    "email": Format(lambda text: _EMAIL.fullmatch(text) is not None, "name@example.com"),
    "hostname": Format(_is_hostname, "www.example.com"),
    "ipv4": Format(lambda text: ipaddress.IPv4Address(text) is not None, "192.0.2.1"),
    "ipv6": Format(_is_ipv6, "2001:db8::1"),
    "json-pointer": Format(lambda text: _POINTER.fullmatch(text) is not None, "/items/0"),
    "time": Format(_is_time, "12:00:00Z"),
    "uri": Format(_is_uri, "https://example.com/page"),
    "uri-reference": Format(_is_uri_reference, "/page?id=1"),
    "uuid": Format(lambda text: _UUID.fullmatch(text) is not None, "123e4567-e89b-12d3-a456-426614174000"),
}
"""All formats that are checked. Any other format is an annotation and accepts every text."""


def _on_texts(accepts: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or accepts(value)


def format_checker() -> FormatChecker:
    """A checker of FORMATS."""
    checker = FormatChecker(formats=())
    for name, found in FORMATS.items():
        checker.checks(name, raises=ValueError)(_on_texts(found.accepts))
    return checker
