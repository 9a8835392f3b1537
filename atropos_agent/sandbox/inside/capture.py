"""Keeping the head and the tail of a stream within a byte budget."""

from __future__ import annotations


class Capture:
    """At most `kept` bytes of a stream of any length: its first half-budget (rounded up) and its last."""

    def __init__(self, kept: int) -> None:
        self._head_room = kept - kept // 2
        self._tail_size = kept // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total: int = 0

    def add(self, chunk: bytes) -> None:
        """Append `chunk`; what falls between head and tail is dropped."""
        self.total += len(chunk)
        if self._head_room:
            taken = chunk[: self._head_room]
            self._head += taken
            self._head_room -= len(taken)
            chunk = chunk[len(taken) :]
        if chunk:
            self._tail += chunk
            excess = len(self._tail) - self._tail_size
            if excess > 0:
                del self._tail[:excess]

    def value(self) -> bytes:
        """Head and tail joined. Nothing marks the seam: it lies after the first half, rounded up."""
        return bytes(self._head + self._tail)
