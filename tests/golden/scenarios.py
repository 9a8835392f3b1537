"""All scenarios of the golden run."""

from __future__ import annotations

from collections.abc import Mapping

from tests.golden.ids_in import IDS_IN
from tests.golden.ids_out import IDS_OUT
from tests.golden.in_process import IN_PROCESS
from tests.golden.scenario import Scenario

ALL = (*IN_PROCESS, *IDS_IN, *IDS_OUT)
SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in ALL}
"""By name."""
assert len(SCENARIOS) == len(ALL), "two scenarios of one name"
