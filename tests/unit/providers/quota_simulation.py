"""A provider with a hidden quota and many who ask, simulated event by event with the pure rule of the throttle."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from rsembed.providers.throttle import FIRST_SHARE, Aimd, Ended, Outcome, step

ANSWER_S = (0.5, 1.5)
"""Of the mean, uniformly: how long an answer takes."""
REFUSAL_S = 0.003
BACK_OFF_S = 0.5


@dataclass(frozen=True)
class Phase:
    """``share``: served / what the quota allows; ``refused``: of all requests; ``settled_s``: until a good second."""

    quota: int
    share: float
    refused: float
    settled_s: float


class Simulation:
    """``askers`` threads on one throttle; the provider refuses at once what exceeds its quota.

    ``noise``: share of requests that are refused whatever the level.
    """

    def __init__(
        self, *, cap: int = 40, askers: int = 64, latency_s: float = 0.2, noise: float = 0.0, seed: int = 0
    ) -> None:
        self.aimd = Aimd(cap * FIRST_SHARE)
        self._cap, self._latency_s, self._noise = cap, latency_s, noise
        self._random = random.Random(seed)
        self._order = itertools.count()
        self._events: list[tuple[float, int, str, float]] = []
        self._waiting, self._held, self._served_now = askers, 0, 0
        self._answers: list[tuple[float, bool]] = []

    def run(self, quotas: Sequence[int], phase_s: float) -> list[Phase]:
        """The quota changes every ``phase_s`` seconds."""
        phases = []
        for i, quota in enumerate(quotas):
            self._answers = []
            self._run_until(phase_s * (i + 1), quota, phase_s * i)
            phases.append(self._phase(quota, phase_s * i, phase_s))
        return phases

    def _run_until(self, end: float, quota: int, now: float) -> None:
        self._begin(now, quota)
        while self._events and self._events[0][0] < end:
            now, _, what, started = heapq.heappop(self._events)
            if what != "back":
                self._end("ok" if what == "served" else "quota", started, now)
            else:
                self._waiting += 1
            self._begin(now, quota)

    def _end(self, outcome: Outcome, started: float, now: float) -> None:
        self._answers.append((now, outcome == "ok"))
        self.aimd = step(self.aimd, Ended(outcome, started, now, self._held), self._cap)
        self._held -= 1
        if outcome == "ok":
            self._served_now -= 1
            self._waiting += 1
        else:
            self._push(now + self._random.uniform(0, BACK_OFF_S), "back", now)

    def _begin(self, now: float, quota: int) -> None:
        while self._waiting and self._held < max(1, int(self.aimd.limit)):
            self._waiting -= 1
            self._held += 1
            if self._served_now >= quota or self._random.random() < self._noise:
                self._push(now + REFUSAL_S, "refused", now)
            else:
                self._served_now += 1
                self._push(now + self._latency_s * self._random.uniform(*ANSWER_S), "served", now)

    def _push(self, at: float, what: str, started: float) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, started))

    def _phase(self, quota: int, began: float, phase_s: float) -> Phase:
        answers, ideal_per_s = self._answers, max(1, quota) / self._latency_s
        served = sum(ok for _, ok in answers)
        settled = phase_s
        for quarter in range(int(4 * phase_s) - 3):
            second = [ok for at, ok in answers if quarter / 4 <= at - began < quarter / 4 + 1.0]
            if sum(second) >= 0.8 * ideal_per_s and second.count(False) <= 0.05 * len(second):
                settled = quarter / 4
                break
        return Phase(quota, served / (ideal_per_s * phase_s), 1 - served / max(1, len(answers)), settled)
