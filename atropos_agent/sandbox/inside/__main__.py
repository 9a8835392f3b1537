"""Entry of the archive: `reaper FD UID IDENTITY` on the host; pid 1 is `slot FD` or `container`."""

from __future__ import annotations

import sys

from atropos_agent.sandbox.inside import confine, control, reaper, supervisor
from atropos_agent.sandbox.inside.engine import EngineGroup


def main() -> None:
    """Dispatch on the first argument."""
    if sys.argv[1] == "reaper":
        reaper.main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
        return
    confine.ignore_signals_from_inside()
    if sys.argv[1] == "container":
        host = control.take_over_streams()
        supervisor.Supervisor(host).run(group=EngineGroup.of_this_container())
    host = control.take_over_socket(int(sys.argv[2]))
    supervisor.Supervisor(host).run()


main()
