"""How many requests a provider gets at a time: more while it copes, fewer when it asks to slow down.

Additive increase, multiplicative decrease, below hard caps: :func:`step` is the whole rule, pure,
for one process (:class:`LocalThrottle`) as for a fleet (``workers.permits``). A request takes a
permit and tells with it how it ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol, Self

from rsembed.core.errors import QuotaError, TransientProviderError

DECREASE = 0.7
"""What a quota error leaves of the limit."""
FIRST_SHARE = 0.25
"""Share of the cap to begin with where it is not known who else is asking."""
POLL_S = 0.1
"""Longest wait between two looks at the stop flag."""

Outcome = Literal["ok", "quota", "other"]


@dataclass(frozen=True)
class ThrottleLimits:
    """What is never exceeded: ``cap`` requests at a time, ``per_s`` starts a second (None: as many as come)."""

    cap: int = 64
    per_s: float | None = None


_LIMITS = {"gee": ThrottleLimits(40, 100.0)}


def throttle_limits(backend: str) -> ThrottleLimits:
    """The hard caps of a backend: what its service says of itself, or a cautious guess."""
    return _LIMITS.get(backend, ThrottleLimits())


@dataclass(frozen=True)
class Aimd:
    """What is known of a provider. Times in seconds of whatever clock the caller uses throughout.

    ``limit``: requests that may be under way, in fractions while it grows. ``decreases``: how often
    it was cut, last at ``decreased_at``; ``quota_errors``: how often the provider asked for it.
    """

    limit: float
    decreases: int = 0
    decreased_at: float = -1.0
    quota_errors: int = 0


@dataclass(frozen=True)
class Ended:
    """A request (or ``count`` of them, one after the other) that ended.

    ``in_flight``: requests under way just before, itself included; times as in :class:`Aimd`.
    """

    outcome: Outcome
    started_at: float
    now: float
    in_flight: int
    count: int = 1


def step(aimd: Aimd, ended: Ended, cap: int) -> Aimd:
    """What is known after a request ended.

    A success while every permit is in use raises the limit: by one a round trip, or to the double
    until the provider has complained for the first time. A quota error cuts it, but only once for
    all the requests that were under way together: those that began before the last cut say
    nothing about the limit since.
    """
    if ended.outcome == "quota":
        known = replace(aimd, quota_errors=aimd.quota_errors + 1)
        if ended.started_at <= aimd.decreased_at:
            return known
        limit = max(1.0, DECREASE * min(aimd.limit, float(max(1, ended.in_flight))))
        return replace(known, limit=limit, decreases=aimd.decreases + 1, decreased_at=ended.now)
    if ended.outcome == "ok" and ended.in_flight >= int(aimd.limit) and aimd.limit < cap:
        share = 1.0 if aimd.decreases == 0 else 1.0 / aimd.limit
        return replace(aimd, limit=min(float(cap), aimd.limit + share * ended.count))
    return aimd


@dataclass(frozen=True)
class ThrottleState:
    """What a throttle tells of itself. ``rate_cap``: starts a second; ``restricted``: the provider says so."""

    limit: float
    in_flight: int
    cap: int
    rate_cap: float | None
    decreases: int
    quota_errors: int
    restricted: bool


class ThrottleStoppedError(TransientProviderError):
    """The caller asked to stop while it waited for a permit."""

    error_class = "stopped"


class Permit:
    """The right to one request, for the time of a ``with`` block; how the block ends is what the throttle learns."""

    def __init__(self, end: Callable[[Outcome], None]) -> None:
        self._end = end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end("ok")
        else:
            self._end("quota" if isinstance(error, QuotaError) else "other")


class Throttle(Protocol):
    """Hands out permits. Safe to use from many threads."""

    def acquire(self, stop: threading.Event) -> Permit:
        """Wait for a permit; raises ThrottleStoppedError once ``stop`` is set."""
        ...

    def quota(self) -> None:
        """The provider asked to slow down, other than by the QuotaError of a permit's own block."""
        ...

    def restrict(self, restricted: bool) -> None:
        """The provider says that it serves this project slowly (or no longer does)."""
        ...

    def state(self) -> ThrottleState:
        """Where it stands."""
        ...


def reserve(next_start: float, now: float, per_s: float | None) -> tuple[float, float]:
    """``(start, next start)`` of a request that may begin ``now`` or later, ``per_s`` a second, evenly spaced."""
    if per_s is None:
        return now, next_start
    start = max(now, next_start)
    return start, start + 1.0 / per_s


class LocalThrottle:
    """A :class:`Throttle` for one process. It begins at the cap: nobody else is known to ask."""

    def __init__(
        self, cap: int = 40, per_s: float | None = 100.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cap, self._per_s, self._clock = cap, per_s, clock
        self._aimd = Aimd(float(cap))
        self._in_flight = 0
        self._next_start = 0.0
        self._restricted = False
        self._freed = threading.Condition()

    def acquire(self, stop: threading.Event) -> Permit:
        """See :class:`Throttle`."""
        with self._freed:
            while self._in_flight >= max(1, int(self._aimd.limit)):
                self._freed.wait(POLL_S)
                if stop.is_set():
                    break
            if stop.is_set():
                raise ThrottleStoppedError("stopped while waiting for the provider's throttle")
            self._in_flight += 1
            now = self._clock()
            start, self._next_start = reserve(self._next_start, now, self._per_s)
        if start > now and stop.wait(start - now):
            self._end("other", start)
            raise ThrottleStoppedError("stopped while waiting for the provider's throttle")
        return Permit(lambda outcome: self._end(outcome, start))

    def _end(self, outcome: Outcome, started_at: float) -> None:
        with self._freed:
            self._aimd = step(self._aimd, Ended(outcome, started_at, self._clock(), self._in_flight), self._cap)
            self._in_flight -= 1
            # Two: the permit that is free again, and the one that a success may have added.
            self._freed.notify(2)

    def quota(self) -> None:
        """See :class:`Throttle`."""
        with self._freed:
            now = self._clock()
            self._aimd = step(self._aimd, Ended("quota", now, now, self._in_flight), self._cap)

    def restrict(self, restricted: bool) -> None:
        """See :class:`Throttle`."""
        self._restricted = restricted

    def state(self) -> ThrottleState:
        """See :class:`Throttle`."""
        with self._freed:
            known = self._aimd
            return ThrottleState(
                known.limit, self._in_flight, self._cap, self._per_s, known.decreases, known.quota_errors,
                self._restricted,
            )  # fmt: skip
