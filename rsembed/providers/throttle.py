"""How many requests a provider gets at a time: more while it copes, fewer when it asks to slow down.

Additive increase, multiplicative decrease, below hard caps: :func:`step` is the whole rule, pure,
for one process (:class:`LocalThrottle`) as for a fleet (``workers.permits``). A request takes a
permit and tells with it how it ended.

The rule aims at a quota of *concurrent* requests that nobody told us and that may change:

- The refused level is known exactly, so the first cut goes to one request below it. Only refusals
  of requests that began after that cut, and soon, say that it was not enough; each takes more.
- Back from a deep cut the limit returns quickly to one below the level that was refused last, stays
  there for a while, and then tries one more: a probe that fails costs about one refusal.
- A level that was refused and no longer is means that the quota has grown: the distance from it
  doubles with every round trip (the shape of CUBIC, RFC 9438, with round trips for a clock).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol, Self

from rsembed.core.errors import QuotaError, TransientProviderError
from rsembed.core.settings import ThrottleLimits

CUTS = (1.0, 0.85, 0.7, 0.5)
"""What a quota error leaves of the level that was refused, by how many cuts came just before; at least one less."""
NEAR = 0.8
"""Share of the limit in use from which a refusal speaks of the limit: requests end while the answer is on its way."""
PROBE_AFTER = (48, 12, 150)
"""Successes before one request more is tried: at least, times the limit, at most. Below 2 % are refused for it
from quotas of a handful on; and where some requests are refused whatever the level, few requests come
together, not one at a time."""
RESTRICTED_SHARE = 0.25
"""Of the cap: what is asked at most while the provider says that it serves this project slowly."""
FIRST_SHARE = 0.25
"""Share of the cap to begin with where it is not known who else is asking."""
POLL_S = 0.1
"""Longest wait between two looks at the stop flag."""

Outcome = Literal["ok", "quota", "other"]


_LIMITS = {"gee": ThrottleLimits(40, 100.0)}


def throttle_limits(backend: str, stated: Iterable[tuple[str, ThrottleLimits]] = ()) -> ThrottleLimits:
    """The hard caps of a backend: the ``stated`` ones, else what its service says of itself, or a cautious guess."""
    return dict(stated).get(backend) or _LIMITS.get(backend, ThrottleLimits())


@dataclass(frozen=True)
class Aimd:
    """What is known of a provider. Times in seconds of whatever clock the caller uses throughout.

    ``limit``: requests that may be under way, in fractions while it grows. ``refused``: the level
    that was refused last (0: none was), ``in_row``: how many cuts just before it followed each other,
    ``since``: successes since the last cut, counted up to two round trips. ``decreases``: how often
    the limit was cut, last at ``decreased_at``; ``quota_errors``: how often the provider asked for it.
    """

    limit: float
    decreases: int = 0
    decreased_at: float = -1.0
    quota_errors: int = 0
    refused: int = 0
    in_row: int = 0
    since: int = 0


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
    """What is known after a request ended; the module's docstring tells the rule.

    Requests that began before the last cut say nothing about the limit since, and refusals while more
    are under way than the limit allows neither. A success raises the limit only where every permit
    was in use, and to its double until the provider has complained for the first time.
    """
    if ended.outcome == "quota":
        known = replace(aimd, quota_errors=aimd.quota_errors + 1)
        old = ended.started_at <= aimd.decreased_at or (aimd.decreases and ended.in_flight > aimd.limit)
        return known if old else _cut(known, ended)
    if ended.outcome == "other" or (aimd.decreases and ended.started_at <= aimd.decreased_at):
        return aimd
    if aimd.decreases:
        aimd = replace(aimd, since=min(aimd.since + ended.count, 2 * int(aimd.limit)))
    if ended.in_flight < int(aimd.limit) or aimd.limit >= cap:
        return aimd
    return replace(aimd, limit=min(float(cap), _raised(aimd, ended.count)))


def _cut(aimd: Aimd, ended: Ended) -> Aimd:
    level = int(aimd.limit)
    if ended.in_flight < NEAR * level:
        level = max(1, ended.in_flight)
    follows = aimd.decreases > 0 and aimd.since < int(aimd.limit)  # within a round trip
    in_row = min(aimd.in_row + 1, len(CUTS) - 1) if follows else 0
    limit = max(1.0, min(level - 1.0, CUTS[in_row] * level))
    return Aimd(limit, aimd.decreases + 1, ended.now, aimd.quota_errors, level, in_row)


def _raised(aimd: Aimd, count: int) -> float:
    """The limit after ``count`` successes while all permits were in use."""
    limit, below = aimd.limit, aimd.refused - 1.0
    if aimd.decreases == 0:
        return limit + count
    if limit < below:
        return min(below, limit + count * max(1.0, (below - limit) / 2) / limit)
    if limit < aimd.refused:
        least, times, most = PROBE_AFTER
        return min(float(aimd.refused), limit + count / max(least, min(times * int(limit), most)))
    # Successes one after the other were all had at the level before: one of them counts.
    return limit + (limit - aimd.refused + 2.0) / limit


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

    def may_stay(self) -> bool:
        """Whether its holder may keep it for another request after one that succeeded."""
        return False

    def begin_again(self) -> None:
        """The request before succeeded, and another one begins."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """The request ended, with ``error`` if that is what it gave."""
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


def allowed_limit(limit: float, cap: int, restricted: bool) -> float:
    """How many requests may be under way where ``limit`` is what was learnt."""
    return min(limit, max(1.0, RESTRICTED_SHARE * cap)) if restricted else limit


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
            while self._in_flight >= max(1, int(self._limit())):
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

    def _limit(self) -> float:
        return allowed_limit(self._aimd.limit, self._cap, self._restricted)

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
                self._limit(), self._in_flight, self._cap, self._per_s, known.decreases, known.quota_errors,
                self._restricted,
            )  # fmt: skip
