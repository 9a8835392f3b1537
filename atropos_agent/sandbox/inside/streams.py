"""The pipes of a slot's programs, served by the code that waits for a program."""

from __future__ import annotations

import math
import os
import select

from atropos_agent.sandbox.inside.capture import Capture

_CHUNK = 1 << 16
_READS_OF_A_FULL_PIPE = (16 << 20) // _CHUNK  # it holds 1 MiB at most, unless the machine's owner allows more


class Feed:
    """What a program is still to read from a pipe of ours; a `lasting` one stays open for more."""

    def __init__(self, descriptor: int, *, lasting: bool) -> None:
        self.descriptor: int = descriptor
        self.rest: memoryview[int] = memoryview(b"")
        self.lasting: bool = lasting
        self.ended: bool = False


class Streams:
    """Captures what programs write, feeds what they read, and tells which other descriptors are ready."""

    def __init__(self) -> None:
        self._poller = select.poll()
        self._captures: dict[int, Capture] = {}
        self._feeds: dict[int, Feed] = {}

    def watch(self, descriptor: int, events: int = select.POLLIN) -> None:
        """Let `wait` return `descriptor` when one of `events` happens to it."""
        self._poller.register(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Undo `watch`."""
        self._poller.unregister(descriptor)

    def open_capture(self, capture: Capture) -> None:
        """Make the pipe of `capture`, and read from it.

        The end for the program stays open here too: to be woken when the program has closed its own, which it
        mostly does by ending, is to be woken twice.
        """
        reader, capture.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        self._captures[reader] = capture
        self._poller.register(reader, select.POLLIN)
        capture.reader = reader

    def continue_in(self, capture: Capture, former: Capture) -> None:
        """From now on, what comes through the pipe of `former` goes to `capture`."""
        capture.reader, capture.writer = former.reader, former.writer
        self._captures[capture.reader] = capture

    def drain(self, capture: Capture) -> None:
        """Read what is in a pipe now, not what a process writes to it meanwhile."""
        for _ in range(_READS_OF_A_FULL_PIPE):
            if not self._read_some(capture):
                break

    def end_capture(self, capture: Capture) -> None:
        """Read what lies in a pipe, and no more from it; nothing where none was made."""
        reader = capture.reader
        if reader in self._captures:
            os.close(capture.writer)
            self.drain(capture)
            self._poller.unregister(reader)
            del self._captures[reader]
            os.close(reader)

    def open_feed(self, data: bytes, *, lasting: bool = False) -> tuple[Feed, int]:
        """A pipe that `data` is written into and that closes then, unless it is `lasting`: (to be ended with
        `end_feed`; the program's end)."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writer, False)
        feed = Feed(writer, lasting=lasting)
        self.refill(feed, data)
        return feed, reader

    def refill(self, feed: Feed, data: bytes) -> None:
        """Write `data` next; what was not yet read is dropped."""
        feed.rest = memoryview(data)
        self._feeds[feed.descriptor] = feed
        self._poller.register(feed.descriptor, select.POLLOUT)

    def end_feed(self, feed: Feed) -> None:
        """Write no more, if it has not ended by itself."""
        self._pause(feed)
        if not feed.ended:
            feed.ended = True
            os.close(feed.descriptor)

    def wait(self, timeout_s: float) -> list[int]:
        """Serve the pipes for at most `timeout_s`, until something happens: the watched descriptors that are
        ready."""
        timeout_ms = None if timeout_s == math.inf else max(1, math.ceil(timeout_s * 1000))
        ready: list[int] = []
        captures, feeds = self._captures, self._feeds
        for descriptor, _ in self._poller.poll(timeout_ms):
            if descriptor in captures:
                self._read_some(captures[descriptor])
            elif descriptor in feeds:
                self._write_some(feeds[descriptor])
            else:
                ready.append(descriptor)
        return ready

    def _read_some(self, capture: Capture) -> bool:
        """False where nothing is there."""
        try:
            chunk = os.read(capture.reader, _CHUNK)
        except BlockingIOError:
            return False
        if chunk:
            capture.add(chunk)
        return bool(chunk)

    def _write_some(self, feed: Feed) -> None:
        try:
            feed.rest = feed.rest[os.write(feed.descriptor, feed.rest[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            feed.rest = feed.rest[:0]
        if not feed.rest and feed.lasting:
            self._pause(feed)
        elif not feed.rest:
            self.end_feed(feed)

    def _pause(self, feed: Feed) -> None:
        if self._feeds.get(feed.descriptor) is feed:
            del self._feeds[feed.descriptor]
            self._poller.unregister(feed.descriptor)
