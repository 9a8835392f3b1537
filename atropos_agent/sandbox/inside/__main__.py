"""Entry of the archive: `zygote FD UID` on the host, `slot FD` as pid 1 in bubblewrap."""

from __future__ import annotations

import sys

from atropos_agent.sandbox.inside import confine, supervisor, zygote


def main() -> None:
    """Dispatch on the first argument."""
    role, descriptor = sys.argv[1], int(sys.argv[2])
    if role == "zygote":
        zygote.main(descriptor, int(sys.argv[3]))
    else:
        confine.ignore_signals_from_inside()
        supervisor.Supervisor(supervisor.take_over(descriptor)).run(in_bubblewrap=True)


main()
