"""What all tests share: a clean environment, and no silent skips on CI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the oracle's matrices are small: threads only slow them

WITH_REAL_PARTS = frozenset({"integration", "sandbox", "tools"})
"""Folders whose tests start sandboxes, servers or processes: all are marked `integration`."""

VARIABLES = ("ATROPOS_", "OPENAI_", "LLM_", "NOUS_", "HF_TOKEN")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which real server the tests of servers talk to, and which engine the tests of containers start."""
    parser.addoption("--real-server", choices=["llama.cpp", "vllm", "transformers"], default="llama.cpp")
    parser.addoption("--container-engine", choices=["podman", "docker"], default="podman")
    parser.addoption("--server-python", type=Path, help="the interpreter that has that server")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of whole folders, so that `make quick` leaves them out."""
    here = Path(__file__).parent
    for item in items:
        if WITH_REAL_PARTS.intersection(item.path.relative_to(here).parts[:1]):
            item.add_marker("integration")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's own reaches a test."""
    for name in list(os.environ):
        if name.startswith(VARIABLES) and name != "ATROPOS_CI":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """On CI every part is installed, so a skip is a failure."""
    report = yield
    if os.environ.get("ATROPOS_CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped on CI, where every part is installed: {report.longrepr}"
    return report
