"""The child process of the embedded policy: llama.cpp's own server, through xllamacpp, on a loopback port.

Reads its settings as one JSON object from the command line and writes `{"url": ...}` on one line. It ends
when its standard input closes or its parent dies, also if the parent is killed.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from types import FrameType, ModuleType

PR_SET_PDEATHSIG = 1
ERRORS_ONLY = 1


def main() -> None:
    """Serve until the parent closes our standard input or dies."""
    settings = json.loads(sys.argv[1])
    _die_with_parent(settings["parent_pid"])
    signal.signal(signal.SIGTERM, _leave)
    xllamacpp = importlib.import_module("xllamacpp")
    try:
        server = xllamacpp.Server(_params(xllamacpp, settings))
    except RuntimeError as error:
        sys.exit(f"llama.cpp cannot serve {settings['model']}: {error}")
    sys.stdout.write(json.dumps({"url": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    os._exit(0)


def _die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process with its parent. Exits at once if the parent is already gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # after prctl: the kernel sends no signal for a parent that died before it
    if os.getppid() != parent_pid:
        os._exit(0)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal handler's signature
    os._exit(0)


def _params(xllamacpp: ModuleType, settings: dict[str, int | str]) -> object:
    """Exact arithmetic (f32 key-value cache, no flash attention), no request log, no web interface."""
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.model_alias = {settings["alias"]}
    params.n_parallel = settings["parallel"]
    # llama.cpp divides its context among the slots
    params.n_ctx = int(settings["context_per_slot"]) * int(settings["parallel"])
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.n_threads_http = int(settings["parallel"]) + 4
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_ram_mib = 0
    params.port = 0
    params.ui = False
    params.verbosity = ERRORS_ONLY
    return params


if __name__ == "__main__":
    main()
