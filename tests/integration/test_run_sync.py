"""An agent made from a URL alone, in a program without an event loop."""

from atropos_agent import AtroposAgent
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import StopReason
from tests.fake_server_process import fake_server


def test_run_sync_works_as_often_as_it_is_called(tmp_path):
    with fake_server(tmp_path) as overrides:
        url = overrides[0].partition("=")[2]
        agent = AtroposAgent(url, tokenizer=Renderer.load(tmp_path, marks=HERMES_MARKS))
        results = [agent.run_sync("Say something.") for _ in range(3)]
    assert [result.stop_reason for result in results] == [StopReason.FINAL_ANSWER] * 3, results
    assert all(result.trajectory_data is not None for result in results)
