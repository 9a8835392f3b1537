"""Checks that what a caller hands in can be recorded and read back, where it comes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from atropos_agent.errors import ConfigError
from atropos_agent.record.codec import rollout_from_json, rollout_to_json
from atropos_agent.record.forms import READ
from atropos_agent.record.jsonl import decode_line, encode_line
from atropos_agent.trajectory import Message, Rollout, Trace

_MESSAGE: TypeAdapter[Any] = TypeAdapter(cast("Any", READ["Message"]))


def require_messages(messages: Sequence[Message]) -> None:
    """Raise ConfigError for the first message that is of no known form, naming it and the field."""
    for number, message in enumerate(messages, 1):
        try:
            _MESSAGE.validate_python(message)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the message"
            raise ConfigError(
                f"message {number} has no form that can be recorded: {where}: {first['msg']}; a message has a"
                " role of system, user, assistant or tool, and a content that is a text or a list of parts"
            ) from None


def require_recordable(trace: Trace) -> None:
    """Raise RecordError where a reader could not read `trace` back from a record."""
    line = encode_line(rollout_to_json(Rollout("trace", "trace", 0, (trace,))))
    rollout_from_json(decode_line(line))
