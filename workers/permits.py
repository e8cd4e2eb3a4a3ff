"""The provider's throttle for a whole fleet, in Redis: the rule is ``rsembed.providers.throttle.step``.

Redis holds who has a permit until when, and what is known of the provider; its own clock counts.
Holders renew their permits, and register them again if Redis lost them. Where Redis knows nothing
(new, flushed, restarted) nobody gets a permit for one permit lease, so that all holders are known
again, and the limit begins at a quarter of the cap. While Redis is away there are no new permits.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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
    allowed_limit,
    step,
)
from workers.broker import ERRORS, BrokerAwayError, connect_redis
from workers.permit_scripts import ACQUIRE, CHANGE, RELEASE, RENEW, RESTRICT, STATE

logger = logging.getLogger(__name__)

HANDOVER_S = 0.3
"""So long a permit may go from thread to thread of a process before it goes back, and what was learnt with it."""
WAIT_S = (0.02, 0.08)
"""Between two requests for a permit, drawn anew each time, so that processes take turns."""
AWAY_S = (0.3, 1.0)
_INDEX = "rsembed:throttles"
_TIMEOUT_S = 2.0
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


class RedisThrottle:
    """A :class:`~rsembed.providers.throttle.Throttle` that all processes with the same ``key`` share.

    ``lease_s``: how long a permit outlives its process. Call :meth:`close` at the end.
    """

    def __init__(
        self, redis_url: str, key: str, cap: int = 40, per_s: float | None = 100.0, lease_s: float = 15.0
    ) -> None:
        self._cap, self._per_s, self._lease_s = cap, per_s, lease_s
        self._client = connect_redis(redis_url, timeout_s=_TIMEOUT_S)
        self._name = key
        self._keys = _keys(key)
        scripts = (ACQUIRE, CHANGE, RELEASE, RENEW, RESTRICT, STATE)
        self._scripts = {script: self._client.register_script(script) for script in scripts}
        self._first = Aimd(max(1.0, FIRST_SHARE * cap))
        self._common = (lease_s, _to_text(self._first), self._first.limit, key)
        self._freed = threading.Condition()
        self._wire = threading.Lock()
        self._held: dict[str, _Slot] = {}
        self._spare: list[_Slot] = []
        self._waiting = 0
        self._asking = False
        self._refused_at = 0.0
        self._away_until = 0.0
        self._away = False
        self._closed = threading.Event()
        self._renewing: threading.Thread | None = None

    def acquire(self, stop: threading.Event) -> Permit:
        """See :class:`~rsembed.providers.throttle.Throttle`; waits as long as Redis is away."""
        slot = self._slot(stop)
        slot.begun_at = time.monotonic()
        return Permit(lambda outcome: self._end(slot, outcome))

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
        answer = self._call(ACQUIRE, slot.id, self._cap, self._per_s or 0, RESTRICTED_SHARE)
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
            # What was taken before the last refusal may be one permit too many.
            young = time.monotonic() - slot.taken_at < HANDOVER_S and slot.taken_at > self._refused_at
            awaited = self._waiting + self._asking > len(self._spare)
            # Where starts are counted, each has to be asked for.
            if outcome != "quota" and young and awaited and self._per_s is None:
                self._spare.append(slot)
                self._freed.notify_all()
                return
        self._give_back(slot, outcome)

    def _give_back(self, slot: _Slot, outcome: Outcome) -> None:
        with self._freed:
            self._held.pop(slot.id, None)
        if time.monotonic() >= self._away_until:
            if outcome == "quota":
                # The limit is cut while the permit is still held, so that nobody takes it for another refusal.
                self._tell("", slot, "quota", 1)
            self._tell(slot.id, slot, "ok", slot.successes)
        with self._freed:
            self._freed.notify_all()

    def _tell(self, released: str, slot: _Slot, outcome: Outcome, count: int) -> None:
        """Release a permit ('': none), and let ``count`` outcomes of ``slot`` change what Redis knows."""
        answer = self._call(RELEASE, released)
        if answer is not None and count:
            now, text, in_flight = float(answer[0]), answer[1], int(answer[2])
            self._learn(text, Ended(outcome, slot.began(), now, in_flight, count))

    def _learn(self, text: str, ended: Ended) -> None:
        """Let ``ended`` change what Redis knows, now ``text``."""
        while text:
            known = _from_text(text)
            after = step(known, ended, self._cap)
            if after == known:
                return
            answer = self._call(CHANGE, text, _to_text(after), after.limit)
            if answer is None or answer[0] == "1":
                return
            text = answer[1]  # another process was faster

    def quota(self) -> None:
        """See :class:`~rsembed.providers.throttle.Throttle`."""
        answer = self._call(RELEASE, "")
        if answer is not None:
            now = float(answer[0])
            self._learn(answer[1], Ended("quota", now, now, int(answer[2])))

    def restrict(self, restricted: bool) -> None:
        """See :class:`~rsembed.providers.throttle.Throttle`."""
        self._call(RESTRICT, int(restricted))

    def state(self) -> ThrottleState:
        """See :class:`~rsembed.providers.throttle.Throttle`; raises BrokerAwayError when Redis is away."""
        try:
            found = _state(self._scripts[STATE](keys=self._keys))
        except ERRORS as exc:
            raise BrokerAwayError(f"the throttle's Redis does not answer: {exc}") from exc
        return found or ThrottleState(self._first.limit, 0, self._cap, self._per_s, 0, 0, restricted=False)

    def close(self) -> None:
        """Give back what nobody uses and stop renewing; requests under way keep their permits until the lease ends."""
        self._closed.set()
        self._drop_spare()
        if self._renewing is not None:
            self._renewing.join(timeout=2 * _TIMEOUT_S)
        self._client.close()

    # Upkeep --------------------------------------------------------------------------------------

    def _start_renewing(self) -> None:
        if self._renewing is None and not self._closed.is_set():
            self._renewing = threading.Thread(target=self._renew, daemon=True, name=f"permits-{self._name}")
            self._renewing.start()

    def _renew(self) -> None:
        """Every third of a lease: say which permits are held, and give back those that wait for nobody."""
        while not self._closed.wait(self._lease_s / 3):
            self._drop_spare()
            with self._freed:
                held = list(self._held)
            if held:
                self._call(RENEW, *held)

    def _drop_spare(self) -> None:
        with self._freed:
            idle = [slot for slot in self._spare if time.monotonic() - slot.taken_at > HANDOVER_S]
            if self._closed.is_set():
                idle = list(self._spare)
            self._spare = [slot for slot in self._spare if slot not in idle]
        for slot in idle:
            self._give_back(slot, "other")

    def _call(self, script: str, *arguments: str | float) -> list[str] | None:
        """What a script answers, as texts; None while Redis is away."""
        with self._wire:
            try:
                found = self._scripts[script](keys=self._keys, args=(*self._common, *arguments))
            except ERRORS as exc:
                self._away_until = time.monotonic() + AWAY_S[0]
                if not self._away:
                    logger.warning("throttle_away", extra={"throttle": self._name, "error": str(exc)})
                self._away = True
                return None
            if self._away:
                logger.warning("throttle_back", extra={"throttle": self._name})
            self._away = False
            return _texts(found)


def throttle_states(redis_url: str) -> Mapping[str, ThrottleState]:
    """Every throttle that this Redis knows, by key; raises BrokerAwayError when it is away."""
    client = connect_redis(redis_url, timeout_s=_TIMEOUT_S)
    script = client.register_script(STATE)
    try:
        answers = {name: _state(script(keys=_keys(name))) for name in sorted(_texts(client.smembers(_INDEX)))}
    except ERRORS as exc:
        raise BrokerAwayError(f"the throttles' Redis does not answer: {exc}") from exc
    finally:
        client.close()
    return {name: state for name, state in answers.items() if state is not None}


def _keys(name: str) -> tuple[str, str, str]:
    return (f"rsembed:throttle:{name}", f"rsembed:throttle:{name}:permits", _INDEX)


def _texts(answer: Any) -> list[str]:  # redis-py gives no type that says what a script answers
    return [item.decode() if isinstance(item, bytes) else str(item) for item in answer]


def _state(answer: Any) -> ThrottleState | None:
    text, cap, per_s, restricted, held = _texts(answer)
    if not text:
        return None
    known, rate, slow = _from_text(text), float(per_s), restricted == "1"
    limit = allowed_limit(known.limit, int(float(cap)), slow)
    return ThrottleState(limit, int(held), int(float(cap)), rate or None, known.decreases, known.quota_errors, slow)


def _to_text(aimd: Aimd) -> str:
    return json.dumps(asdict(aimd))


def _from_text(text: str) -> Aimd:
    return Aimd(**json.loads(text))
