"""The wire between host and supervisor: two lengths, one JSON object or nothing, raw bytes; all bounded."""

from __future__ import annotations

import json
import struct
from typing import NamedTuple

PREFIX = struct.Struct("!II")
# Made once: to run fewer lines of Python is to write to fewer of the pages that slots share.
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_from_json = json.JSONDecoder().raw_decode
_NUMBERS = (int, float)
MAX_META = 16 << 20
LARGEST = 1e300
"""What a number must be below, so that it is one: not infinite, and not NaN."""
MAX_PAYLOAD = 256 << 20


class FrameError(ValueError):
    """The other side broke the protocol: a length out of bounds, no JSON object, a wrong type."""


class Frame(NamedTuple):
    """One message."""

    meta: dict[str, object]
    payload: bytes


def encode(meta: dict[str, object], *payload: bytes) -> bytes:
    """The bytes of one frame, its payload joined from parts. Raises FrameError where a bound is exceeded."""
    return b"".join((head_of(meta, sum(map(len, payload))), *payload))


def head_of(meta: dict[str, object], payload_size: int) -> bytes:
    """What precedes the payload of a frame. Raises FrameError where a bound is exceeded."""
    head = _to_json(meta).encode("ascii") if meta else b""
    if len(head) > MAX_META or payload_size > MAX_PAYLOAD:
        raise FrameError(f"frame of {len(head)} + {payload_size} bytes; at most {MAX_META} + {MAX_PAYLOAD}")
    return PREFIX.pack(len(head), payload_size) + head


class FrameReader:
    """Cuts a byte stream into frames. Bounds are checked as soon as the prefix is there."""

    def __init__(self, max_meta: int = MAX_META, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_meta = max_meta
        self._max_payload = max_payload
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview[int]) -> None:
        """Append received bytes."""
        self._buffer += data

    @property
    def pending(self) -> int:
        """Bytes received and not yet taken."""
        return len(self._buffer)

    def take(self) -> Frame | None:
        """The next whole frame, or None until more bytes are fed. Raises FrameError."""
        buffer = self._buffer
        if len(buffer) < PREFIX.size:
            return None
        meta_size, payload_size = PREFIX.unpack_from(buffer)
        if meta_size > self._max_meta or payload_size > self._max_payload:
            raise FrameError(f"announced {meta_size} + {payload_size} bytes, more than is allowed")
        start = PREFIX.size + meta_size
        end = start + payload_size
        if len(buffer) < end:
            return None
        meta = _object(buffer[PREFIX.size : start]) if meta_size else {}
        payload = bytes(buffer[start:end])
        del buffer[:end]
        return Frame(meta, payload)


def _object(head: bytearray) -> dict[str, object]:
    try:
        text = head.decode()
        meta, end = _from_json(text)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"frame header is not JSON: {head[:80]!r}") from error
    if end != len(text) or not isinstance(meta, dict):
        raise FrameError(f"frame header is not an object: {head[:80]!r}")
    return meta


def integer(meta: dict[str, object], key: str) -> int:
    """A required int field. Raises FrameError."""
    value = meta.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FrameError(f"field {key!r} is {value!r:.80}, not an integer")
    return value


def number(meta: dict[str, object], key: str) -> float:
    """A required int or float field. Raises FrameError."""
    value = meta.get(key)
    if not isinstance(value, _NUMBERS) or isinstance(value, bool) or not abs(value) < LARGEST:
        raise FrameError(f"field {key!r} is {value!r:.80}, not a number")
    return float(value)


def text(meta: dict[str, object], key: str) -> str:
    """A required str field. Raises FrameError."""
    value = meta.get(key)
    if not isinstance(value, str):
        raise FrameError(f"field {key!r} is {value!r:.80}, not a string")
    return value


def sizes(meta: dict[str, object], key: str) -> list[tuple[str, int]]:
    """A required list of (name, size) pairs. Raises FrameError."""
    pairs: list[tuple[str, int]] = []
    for entry in sequence(meta, key):
        match entry:
            case [str(name), int(size)] if size >= 0:
                pairs.append((name, size))
            case _:
                raise FrameError(f"not a (name, size) pair: {entry!r:.80}")
    return pairs


def sequence(meta: dict[str, object], key: str) -> list[object]:
    """A required list field. Raises FrameError."""
    value = meta.get(key)
    if not isinstance(value, list):
        raise FrameError(f"field {key!r} is {value!r:.80}, not a list")
    return value
