"""The channel between a slot's pid 1 and the host."""

from __future__ import annotations

import os
import select

_REQUESTS = 3
_ANSWERS = 4
_CHUNK = 1 << 16
# A socket tells that the host has closed its end by RDHUP, a pipe by HUP, which needs not be asked for.
HANG_UP = select.POLLRDHUP


class HostGoneError(Exception):
    """The host closed its end; the slot has no reason to live."""


class Control:
    """Descriptors that requests come from and answers go to; one and the same where it is a socket."""

    def __init__(self, requests: int, answers: int) -> None:
        self.requests: int = requests
        self.answers: int = answers

    def receive(self) -> bytes:
        """What has come, up to 64 KiB. Raises HostGoneError."""
        data = os.read(self.requests, _CHUNK)
        if not data:
            raise HostGoneError
        return data

    def send(self, data: bytes) -> None:
        """All of it. Raises OSError."""
        sent = os.write(self.answers, data)
        while sent < len(data):
            sent += os.write(self.answers, memoryview(data)[sent:])


def take_over_socket(descriptor: int) -> Control:
    """Move a socket to a fixed, close-on-exec descriptor and close all others above it."""
    if descriptor != _REQUESTS:
        os.dup2(descriptor, _REQUESTS, inheritable=False)
    os.set_inheritable(_REQUESTS, False)
    os.closerange(_REQUESTS + 1, 1 << 20)
    return Control(_REQUESTS, _REQUESTS)


def take_over_streams() -> Control:
    """Serve stdin and stdout: they move to fixed, close-on-exec descriptors; all others are closed."""
    for stream, descriptor in ((0, _REQUESTS), (1, _ANSWERS)):
        os.dup2(stream, descriptor, inheritable=False)
    os.closerange(_ANSWERS + 1, 1 << 20)
    return Control(_REQUESTS, _ANSWERS)
