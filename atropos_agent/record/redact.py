"""Settings without secrets, for what is written down about a run."""

from __future__ import annotations

import re
from collections.abc import Mapping

from atropos_agent.record.jsonl import decode_line, encode_line
from atropos_agent.trajectory import Json

REDACTED = "***"

_SECRET_WORDS = frozenset({"key", "token", "secret", "password", "passwd", "authorization", "credential"})
_SECRET_PLURALS = frozenset(f"{word}s" for word in _SECRET_WORDS)
_SECRET_FLAG = re.compile(r"(?i)^(--\S*(?:key|token|secret|password)=)\S+$")
_URL = re.compile(r"\w+://\S+$")
_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")
_SECRET_IN_URL = re.compile(r"(?i)(?<=://)[^/@\s]+(?=@)|(?<=[?&]key=)[^&\s]+|(?<=[?&]token=)[^&\s]+")


def redacted(settings: Mapping[str, Json]) -> dict[str, Json]:
    """`settings` as plain JSON values without secrets: texts under a name that ends in key, token, secret,
    password or the like, the user part, key and token of a URL, and the value of such a flag.

    Other texts (prompts, say) stay as they are, because a resume reads them back.
    """
    plain = decode_line(encode_line(settings))
    return {key: _without_secrets(value, _names_a_secret(key)) for key, value in plain.items()}


def _without_secrets(value: Json, secret: bool) -> Json:
    if isinstance(value, str):
        if secret and value:
            return REDACTED
        if _URL.match(value):
            return _SECRET_IN_URL.sub(REDACTED, value)
        return _SECRET_FLAG.sub(rf"\1{REDACTED}", value)
    if isinstance(value, Mapping):
        return {key: _without_secrets(item, secret or _names_a_secret(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item, secret) for item in value]
    return value


def _names_a_secret(name: str) -> bool:
    words = _WORDS.findall(name)
    return bool(words) and words[-1].lower() in _SECRET_WORDS | _SECRET_PLURALS
