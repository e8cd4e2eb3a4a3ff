"""The provider's throttle for a whole fleet, in Redis: the rule is ``rsembed.providers.throttle.step``.

Redis holds who has a permit until when, and what is known of the provider; its own clock counts.
Holders renew their permits, and register them again if Redis lost them. Where Redis knows nothing
(new, flushed, restarted) nobody gets a permit for one permit lease, so that all holders are known
again, and the limit begins at a quarter of the cap. While Redis is away there are no new permits.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from rsembed.providers.throttle import (
    FIRST_SHARE,
    POLL_S,
    RESTRICTED_SHARE,
    Aimd,
    Ended,
    Outcome,
    Permit,
    ThrottleState,
    ThrottleStoppedError,
    step,
)
from workers.permit_scripts import ACQUIRE, CHANGE, RELEASE, RENEW, RESTRICT
from workers.permit_store import AWAY_S, TIMEOUT_S, PermitStore, from_text, to_text

HANDOVER_S = 0.3
"""So long a permit may go from thread to thread of a process before it goes back, and what was learnt with it."""
WAIT_S = (0.02, 0.08)
"""Between two requests for a permit, drawn anew each time, so that processes take turns."""
_STOPPED = "stopped while waiting for a permit"


@dataclass
class _Slot:
    """A permit that this process holds, taken at ``taken_at`` by the monotonic clock, ``redis_at`` by Redis'."""

    id: str
    taken_at: float
    redis_at: float
    successes: int = 0
    begun_at: float = 0.0

    def began(self) -> float:
        """When its current request began, by Redis' clock."""
        return self.redis_at + max(0.0, self.begun_at - self.taken_at)


class _SharedPermit(Permit):
    """A permit that a thread may keep for its next request; ``free``: whether nobody else has a better claim."""

    def __init__(self, slot: _Slot, end: Callable[[Outcome], None], free: Callable[[_Slot], bool]) -> None:
        super().__init__(end)
        self._slot = slot
        self._free = free

    def may_stay(self) -> bool:
        """See Permit."""
        return self._free(self._slot)

    def begin_again(self) -> None:
        """See Permit."""
        self._slot.successes += 1
        self._slot.begun_at = time.monotonic()


class RedisThrottle:
    """A :class:`~rsembed.providers.throttle.Throttle` that all processes with the same ``key`` share.

    ``lease_s``: how long a permit outlives its process. Call :meth:`close` at the end.
    """

    def __init__(
        self, redis_url: str, key: str, cap: int = 40, per_s: float | None = 100.0, lease_s: float = 15.0
    ) -> None:
        self._cap, self._per_s, self._lease_s = cap, per_s, lease_s
        self._name = key
        self._store = PermitStore(redis_url, key, Aimd(max(1.0, FIRST_SHARE * cap)), lease_s)
        self._freed = threading.Condition()
        self._held: dict[str, _Slot] = {}
        self._spare: list[_Slot] = []
        self._waiting = 0
        self._asking = False
        self._refused_at = 0.0
        self._closed = threading.Event()
        self._renewing: threading.Thread | None = None

    def acquire(self, stop: threading.Event) -> Permit:
        """See :class:`~rsembed.providers.throttle.Throttle`; waits as long as Redis is away."""
        slot = self._slot(stop)
        slot.begun_at = time.monotonic()
        return _SharedPermit(slot, lambda outcome: self._end(slot, outcome), self._is_free_to_stay)

    def _slot(self, stop: threading.Event) -> _Slot:
        """A spare permit of this process, or one from Redis, for which one thread asks at a time."""
        while True:
            with self._freed:
                self._waiting += 1
                while self._asking and not self._spare and not stop.is_set():
                    self._freed.wait(POLL_S)
                self._waiting -= 1
                if stop.is_set():
                    raise ThrottleStoppedError(_STOPPED)
                if self._spare:
                    return self._spare.pop()
                self._asking = True
            try:
                slot = self._ask_until_granted(stop)
            finally:
                with self._freed:
                    self._asking = False
                    self._freed.notify()
            if slot is not None:
                self._drop_unawaited()
                return slot

    def _ask_until_granted(self, stop: threading.Event) -> _Slot | None:
        """A new permit; None when a spare one may be had, or it is time to stop."""
        while True:
            slot, wait_s = self._ask()
            if slot is not None:
                if wait_s > 0 and stop.wait(wait_s):
                    self._give_back(slot, "other")
                    raise ThrottleStoppedError(_STOPPED)
                return slot
            with self._freed:
                if not self._spare and not stop.is_set():
                    self._freed.wait(min(POLL_S, wait_s))
                if self._spare or stop.is_set():
                    return None

    def _ask(self) -> tuple[_Slot | None, float]:
        """``(permit, s until it may be used)``, or ``(None, s until it makes sense to ask again)``."""
        slot = _Slot(uuid.uuid4().hex, 0.0, 0.0)
        answer = self._store.call(ACQUIRE, slot.id, self._cap, self._per_s or 0, RESTRICTED_SHARE)
        if answer is None:
            return None, random.uniform(*AWAY_S)  # noqa: S311 - jitter
        granted, now, wait_s = answer[0] == "1", float(answer[1]), float(answer[2])
        if not granted:
            return None, max(wait_s, 0.0) + random.uniform(*WAIT_S)  # noqa: S311 - jitter
        slot.taken_at, slot.redis_at = time.monotonic(), now
        with self._freed:
            self._held[slot.id] = slot
            self._start_renewing()
        return slot, wait_s

    def _end(self, slot: _Slot, outcome: Outcome) -> None:
        slot.successes += outcome == "ok"
        with self._freed:
            if outcome == "quota":
                self._refused_at = time.monotonic()
            awaited = self._waiting + self._asking > len(self._spare)
            if outcome != "quota" and awaited and self._is_good(slot):
                self._spare.append(slot)
                self._freed.notify_all()
                return
        self._give_back(slot, outcome)

    def _is_good(self, slot: _Slot) -> bool:
        """Whether a permit may serve one more request."""
        # What was taken before the last refusal may be one permit too many. Where starts are counted, each has to be
        # asked for.
        young = time.monotonic() - slot.taken_at < HANDOVER_S and slot.taken_at > self._refused_at
        return young and self._per_s is None

    def _is_free_to_stay(self, slot: _Slot) -> bool:
        """Whether the thread that holds a permit may keep it: another one that waits can begin at once."""
        return not (self._waiting or self._asking) and self._is_good(slot)

    def _give_back(self, slot: _Slot, outcome: Outcome) -> None:
        with self._freed:
            self._held.pop(slot.id, None)
        if not self._store.rests:
            if outcome == "quota":
                # The limit is cut while the permit is still held, so that nobody takes it for another refusal.
                self._tell("", slot, "quota", 1)
            self._tell(slot.id, slot, "ok", slot.successes)
        with self._freed:
            self._freed.notify_all()

    def _tell(self, released: str, slot: _Slot, outcome: Outcome, count: int) -> None:
        """Release a permit ('': none), and let ``count`` outcomes of ``slot`` change what Redis knows."""
        answer = self._store.call(RELEASE, released)
        if answer is not None and count:
            now, text, in_flight = float(answer[0]), answer[1], int(answer[2])
            self._learn(text, Ended(outcome, slot.began(), now, in_flight, count))

    def _learn(self, text: str, ended: Ended) -> None:
        """Let ``ended`` change what Redis knows, now ``text``."""
        while text:
            known = from_text(text)
            after = step(known, ended, self._cap)
            if after == known:
                return
            answer = self._store.call(CHANGE, text, to_text(after), after.limit)
            if answer is None or answer[0] == "1":
                return
            text = answer[1]  # another process was faster

    def quota(self) -> None:
        """See :class:`~rsembed.providers.throttle.Throttle`."""
        answer = self._store.call(RELEASE, "")
        if answer is not None:
            now = float(answer[0])
            self._learn(answer[1], Ended("quota", now, now, int(answer[2])))

    def restrict(self, restricted: bool) -> None:
        """See :class:`~rsembed.providers.throttle.Throttle`."""
        self._store.call(RESTRICT, int(restricted))

    def state(self) -> ThrottleState:
        """See :class:`~rsembed.providers.throttle.Throttle`; raises BrokerAwayError when Redis is away."""
        return self._store.state(self._cap, self._per_s)

    def close(self) -> None:
        """Give back what nobody uses and stop renewing; requests under way keep their permits until the lease ends."""
        self._closed.set()
        self._drop_spare()
        if self._renewing is not None:
            self._renewing.join(timeout=2 * TIMEOUT_S)
        self._store.close()

    # Upkeep --------------------------------------------------------------------------------------

    def _start_renewing(self) -> None:
        if self._renewing is None and not self._closed.is_set():
            self._renewing = threading.Thread(target=self._renew, daemon=True, name=f"permits-{self._name}")
            self._renewing.start()

    def _renew(self) -> None:
        """Every third of a lease: say which permits are held, and give back those that wait for nobody."""
        while not self._closed.wait(self._lease_s / 3):
            self._drop_spare()
            if self._held:
                self._store.call_with(RENEW, self._held_ids)

    def _held_ids(self) -> list[str]:
        # Looked up while no call is under way: what is given back later is released after this, not revived by it.
        with self._freed:
            return list(self._held)

    def _drop_unawaited(self) -> None:
        """Give back spare permits that were meant for a thread which got its own from Redis meanwhile."""
        with self._freed:
            kept = min(len(self._spare), self._waiting)
            unawaited, self._spare = self._spare[kept:], self._spare[:kept]
        for slot in unawaited:
            self._give_back(slot, "other")

    def _drop_spare(self) -> None:
        with self._freed:
            idle = [slot for slot in self._spare if time.monotonic() - slot.taken_at > HANDOVER_S]
            if self._closed.is_set():
                idle = list(self._spare)
            self._spare = [slot for slot in self._spare if slot not in idle]
        for slot in idle:
            self._give_back(slot, "other")
