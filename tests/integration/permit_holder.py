"""A process that takes permits until it is told to stop, for tests; one line a request: start, end, outcome."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path

from rsembed.core.errors import QuotaError
from rsembed.providers.throttle import ThrottleStoppedError
from workers.permits import RedisThrottle


def main(url: str, cap: int, per_s: float, lease_s: float, threads: int, work_s: float, folder: Path) -> None:
    """Work until ``folder/stop`` exists; with ``folder/quota`` every request ends in a quota error."""
    throttle = RedisThrottle(url, "test", cap, per_s or None, lease_s)
    stop, lock = threading.Event(), threading.Lock()

    def work() -> None:
        while not stop.is_set():
            with contextlib.suppress(QuotaError, ThrottleStoppedError), throttle.acquire(stop):
                began = time.time()
                time.sleep(work_s)
                refused = (folder / "quota").exists()
                with lock:
                    print(began, time.time(), "quota" if refused else "ok", flush=True)
                if refused:
                    raise QuotaError("slow down")

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    while not (folder / "stop").exists():
        time.sleep(0.02)
    stop.set()
    for worker in workers:
        worker.join()
    throttle.close()


if __name__ == "__main__":
    _, url, cap, per_s, lease_s, threads, work_s, folder = sys.argv
    main(url, int(cap), float(per_s), float(lease_s), int(threads), float(work_s), Path(folder))
