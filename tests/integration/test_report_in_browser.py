import json
import shutil
import subprocess

import pytest

from atropos_agent.record import RunDir
from atropos_agent.record.rundir import LOGPROB_CHECK
from atropos_agent.sinks.report import write_report
from tests.sinks.test_report import HOSTILE, Page, a_check, hostile_group

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--dump-dom",
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine"),
]


class Texts(Page):
    """A page whose text outside of scripts is kept."""

    def __init__(self, text: str) -> None:
        self.text = ""
        super().__init__(text)

    def handle_data(self, data):
        super().handle_data(data)
        if not self._in_script:
            self.text += data


@pytest.mark.parametrize("tab", ["", "/tokens"])
def test_planted_markup_is_shown_and_does_not_run(tmp_path, tab):
    with RunDir.create(tmp_path / "run", {}) as run:
        run.add_group(hostile_group())
    (tmp_path / "run" / LOGPROB_CHECK).write_text(json.dumps(a_check()))
    report = write_report(tmp_path / "run", decode=lambda ids: [HOSTILE] * len(ids))
    command = [
        str(BROWSER),
        *FLAGS,
        f"--user-data-dir={tmp_path / 'browser'}",
        report.resolve().as_uri() + f"#0{tab}",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    page = Texts(done.stdout)
    assert "<title>run – run report</title>" in done.stdout
    assert "img" not in page.elements
    assert page.elements["script"] == 2
    assert page.text.count("document.title='owned'") >= 4
    assert page.elements["path"] == 4
    assert "Farthest off: 2.5e-1" in page.text
