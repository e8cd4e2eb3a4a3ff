"""How well four processes share a provider whose quota nobody told them: 40 requests at a time, then 10, then 40.

    python benchmarks/throttle.py [--phase-s 30] [--latency-s 0.2] [--alone] [--quick] [--json]

The provider answers after ``latency`` (half to one and a half of it) or, with more requests under
way than its quota, refuses at once. Sixteen threads a process ask as fast as they may, with the
retries of a real run. ``share`` is what was served / what the quota could have served; ``refused``
the share of requests that were refused; ``settled`` the seconds after the change until a whole second
saw at least 80 % of the quota used and at most 20 % refused. Beside the fleet's throttle: a fixed
cap of 40 (which is what a number in a configuration file does), and retries alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing as mp
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rsembed.core.errors import QuotaError  # noqa: E402 - the path comes first
from rsembed.pipelines.retry import RetryPolicy, call_with_retry  # noqa: E402 - the path comes first
from rsembed.providers.throttle import ThrottleStoppedError  # noqa: E402 - the path comes first
from workers.permits import RedisThrottle  # noqa: E402 - the path comes first
from workers.servers.redis import EmbeddedRedis  # noqa: E402 - the path comes first

PROCESSES, THREADS, CAP = 4, 16, 40
QUOTAS = (40, 10, 40)
LEASE_S = 2.0
TARGETS = {"share": 0.90, "refused": 0.02, "settled_s": 30.0}


@dataclass(frozen=True)
class Provider:
    """A service with a quota, shared by all processes: requests under way, and how many may be."""

    under_way: Synchronized[int]
    quota: Synchronized[int]
    latency_s: float

    def ask(self) -> None:
        """Take about ``latency_s``; QuotaError at once when too many do."""
        with self.under_way.get_lock():
            if self.under_way.value >= self.quota.value:
                raise QuotaError("too many concurrent requests")
            self.under_way.value += 1
        try:
            time.sleep(self.latency_s * random.uniform(0.5, 1.5))  # noqa: S311 - a service's whims
        finally:
            with self.under_way.get_lock():
                self.under_way.value -= 1


@dataclass(frozen=True)
class Answer:
    """When an answer came, and whether it was a refusal."""

    at: float
    refused: bool


def ask_all_the_time(provider: Provider, way: str, url: str, stopped: Event, answers: Any) -> None:
    """One process: its threads ask until ``stopped``."""
    random.seed()
    stop = threading.Event()
    throttle = RedisThrottle(url, "benchmark", CAP, None, LEASE_S) if way == "throttle" else None
    fixed = threading.Semaphore(CAP // PROCESSES)
    found: list[Answer] = []

    def once() -> None:
        try:
            provider.ask()
        except QuotaError:
            found.append(Answer(time.time(), refused=True))
            raise
        found.append(Answer(time.time(), refused=False))

    def fetch() -> None:
        if throttle is not None:
            with throttle.acquire(stop):
                once()
        elif way == "fixed":
            with fixed:
                once()
        else:
            once()

    def work() -> None:
        while not stop.is_set():
            with contextlib.suppress(QuotaError, ThrottleStoppedError):
                call_with_retry(fetch, RetryPolicy(max_quota_waits=10**6), stop)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    stopped.wait()
    stop.set()
    for thread in threads:
        thread.join()
    if throttle is not None:
        throttle.close()
    answers.put([(answer.at, answer.refused) for answer in found])


@dataclass(frozen=True)
class Phase:
    """What one way did in one phase."""

    way: str
    quota: int
    share: float
    refused: float
    settled_s: float | None


def measure(way: str, phase_s: float, latency_s: float, url: str) -> list[Phase]:
    """All phases of one way."""
    context = mp.get_context("spawn")
    provider = Provider(context.Value("i", 0), context.Value("i", QUOTAS[0]), latency_s)
    stopped, queue = context.Event(), context.SimpleQueue()
    arguments = (provider, way, url, stopped, queue)
    processes = [context.Process(target=ask_all_the_time, args=arguments) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    while provider.under_way.value == 0:  # started, and past the throttle's first lease
        time.sleep(0.01)
    borders = []
    for quota in QUOTAS:
        borders.append(time.time())
        provider.quota.value = quota
        time.sleep(phase_s)
    borders.append(time.time())
    stopped.set()
    answers = [Answer(at, refused) for _ in processes for at, refused in queue.get()]
    for process in processes:
        process.join()
    pairs = zip(QUOTAS, borders, borders[1:], strict=False)
    return [_phase(way, quota, latency_s, answers, began, ended) for quota, began, ended in pairs]


def _phase(way: str, quota: int, latency_s: float, answers: list[Answer], began: float, ended: float) -> Phase:
    def between(first: float, last: float) -> tuple[float, float]:
        inside = [answer for answer in answers if first <= answer.at < last]
        served = sum(not answer.refused for answer in inside)
        ideal = quota / latency_s * (last - first)
        return served / ideal, (len(inside) - served) / max(1, len(inside))

    settled_s, at = None, began
    while at + 1.0 <= ended and settled_s is None:
        share, refused = between(at, at + 1.0)
        if share >= 0.8 and refused <= 0.2:
            settled_s = at - began
        at += 0.25
    share, refused = between(began, ended)
    return Phase(way, quota, share, refused, settled_s)


def show(phases: list[Phase]) -> None:
    """A line for each phase, then the targets."""
    print(f"{'way':>10} {'quota':>6} {'share':>7} {'refused':>8} {'settled s':>10}")
    for phase in phases:
        settled = "never" if phase.settled_s is None else f"{phase.settled_s:.2f}"
        print(f"{phase.way:>10} {phase.quota:>6} {phase.share:>7.2f} {phase.refused:>8.3f} {settled:>10}")
    ours = [phase for phase in phases if phase.way == "throttle"]
    share, refused = min(phase.share for phase in ours), max(phase.refused for phase in ours)
    settled_s = max(math.inf if phase.settled_s is None else phase.settled_s for phase in ours)
    print(
        f"\nthrottle, its worst phase: share {share:.2f} (target >= {TARGETS['share']:.2f}), refused {refused:.3f} "
        f"(target <= {TARGETS['refused']:.2f}), settled after {settled_s:.1f} s (target <= {TARGETS['settled_s']:.0f})"
    )


def main() -> None:
    """Measure every way and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase-s", type=float, default=30.0)
    parser.add_argument("--latency-s", type=float, default=0.2)
    parser.add_argument("--alone", action="store_true", help="the throttle, without what it is compared with")
    parser.add_argument("--quick", action="store_true", help="phases of 2 s, the throttle alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    phase_s = 2.0 if options.quick else options.phase_s
    run: Callable[[str, str], list[Phase]] = lambda way, url: measure(way, phase_s, options.latency_s, url)  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        redis = EmbeddedRedis(Path(folder) / "redis")
        redis.start()
        try:
            ways = ("throttle",) if options.quick or options.alone else ("throttle", "fixed", "retries")
            phases = [phase for way in ways for phase in run(way, redis.url)]
        finally:
            redis.stop()
    if options.json:
        print(json.dumps([vars(phase) for phase in phases]))
    else:
        show(phases)


if __name__ == "__main__":
    main()
