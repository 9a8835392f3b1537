"""Keeping the head and the tail of a stream within a byte budget."""

from __future__ import annotations


class Capture:
    """At most `kept` bytes of a stream of any length: its first half-budget (rounded up) and its last.

    `reader` and `writer` are the ends of the pipe that the stream comes through, -1 while there is none.
    """

    def __init__(self, kept: int) -> None:
        self.total: int = 0
        self.reader: int = -1
        self.writer: int = -1
        self._kept = kept
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, chunk: bytes) -> None:
        """Append `chunk`; what falls between head and tail is dropped."""
        self.total += len(chunk)
        tail_room = self._kept // 2
        head_room = self._kept - tail_room - len(self._head)
        self._head += chunk[:head_room]
        self._tail += chunk[head_room:]
        excess = len(self._tail) - tail_room
        if excess > 0:
            del self._tail[:excess]

    def value(self) -> bytes:
        """Head and tail joined. Nothing marks the seam: it lies after the first half, rounded up."""
        return bytes(self._head + self._tail)
