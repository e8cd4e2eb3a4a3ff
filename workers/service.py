"""What the services of all queues share: how a suspect gets its process to itself."""

from __future__ import annotations

import time

from workers.hold import Hold, Leased
from workers.process import WorkerProcess


def wait_until_alone(process: WorkerProcess, hold: Hold[Leased]) -> bool:
    """Wait until everything else this process holds has ended; False when the hold has to stop before.

    Nothing new joins meanwhile (see :meth:`WorkerProcess.claim`): if the process dies now, it is
    because of the suspect.
    """
    while process.leased > 1:
        if hold.should_stop():
            return False
        time.sleep(0.02)
    return not hold.should_stop()
