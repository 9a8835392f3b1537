"""Observability of this process: logs without secrets, the in-flight table, the stall watchdog."""

from atropos_agent.telemetry.flight_recorder import FlightRecorder
from atropos_agent.telemetry.in_flight import CURRENT, Entry, Kind, Phase, lines, sending, table
from atropos_agent.telemetry.logs import ROOT, Heartbeat, debug_logger, redact
from atropos_agent.telemetry.watchdog import Watchdog, dump_on_signal, watching

__all__ = [
    "CURRENT",
    "ROOT",
    "Entry",
    "FlightRecorder",
    "Heartbeat",
    "Kind",
    "Phase",
    "Watchdog",
    "debug_logger",
    "dump_on_signal",
    "lines",
    "redact",
    "sending",
    "table",
    "watching",
]
