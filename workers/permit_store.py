"""What Redis knows of a throttle, asked and told through scripts."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rsembed.providers.throttle import Aimd, ThrottleState, allowed_limit
from workers.broker import ERRORS, BrokerAwayError, connect_redis
from workers.permit_scripts import ACQUIRE, CHANGE, RELEASE, RENEW, RESTRICT, STATE

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.0
AWAY_S = (0.3, 1.0)
"""Until Redis is asked again that was away."""
_INDEX = "rsembed:throttles"


class PermitStore:
    """The throttle ``key`` in the Redis at ``redis_url``; ``first``: what holds where Redis knows nothing.

    ``lease_s``: how long a permit outlives its process. One call is under way at a time.
    """

    def __init__(self, redis_url: str, key: str, first: Aimd, lease_s: float) -> None:
        self._name = key
        self._first = first
        self._client = connect_redis(redis_url, timeout_s=TIMEOUT_S)
        scripts = (ACQUIRE, CHANGE, RELEASE, RENEW, RESTRICT, STATE)
        self._scripts = {script: self._client.register_script(script) for script in scripts}
        self._keys = _keys(key)
        self._common = (lease_s, to_text(first), first.limit, key)
        self._wire = threading.Lock()
        self._away_until = 0.0
        self._away = False

    @property
    def rests(self) -> bool:
        """Whether Redis was away just now, so that it makes no sense to ask."""
        return time.monotonic() < self._away_until

    def call(self, script: str, *arguments: str | float) -> list[str] | None:
        """What a script answers, as texts; None while Redis is away."""
        return self.call_with(script, lambda: arguments)

    def call_with(self, script: str, arguments: Callable[[], Iterable[str | float]]) -> list[str] | None:
        """:meth:`call` with arguments that are looked up when no other call is under way."""
        with self._wire:
            try:
                found = self._scripts[script](keys=self._keys, args=(*self._common, *arguments()))
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

    def state(self, cap: int, per_s: float | None) -> ThrottleState:
        """What is known, else what a throttle of ``cap`` and ``per_s`` begins with; raises BrokerAwayError."""
        try:
            found = _state(self._scripts[STATE](keys=self._keys))
        except ERRORS as exc:
            raise BrokerAwayError(f"the throttle's Redis does not answer: {exc}") from exc
        return found or ThrottleState(self._first.limit, 0, cap, per_s, 0, 0, restricted=False)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def throttle_states(redis_url: str) -> Mapping[str, ThrottleState]:
    """Every throttle that this Redis knows, by key; raises BrokerAwayError when it is away."""
    client = connect_redis(redis_url, timeout_s=TIMEOUT_S)
    script = client.register_script(STATE)
    try:
        answers = {name: _state(script(keys=_keys(name))) for name in sorted(_texts(client.smembers(_INDEX)))}
    except ERRORS as exc:
        raise BrokerAwayError(f"the throttles' Redis does not answer: {exc}") from exc
    finally:
        client.close()
    return {name: state for name, state in answers.items() if state is not None}


def to_text(aimd: Aimd) -> str:
    """``aimd`` as it lies in Redis."""
    return json.dumps(asdict(aimd))


def from_text(text: str) -> Aimd:
    """The other way round of :func:`to_text`."""
    return Aimd(**json.loads(text))


def _keys(name: str) -> tuple[str, str, str]:
    return (f"rsembed:throttle:{name}", f"rsembed:throttle:{name}:permits", _INDEX)


def _texts(answer: Any) -> list[str]:  # redis-py gives no type that says what a script answers
    return [item.decode() if isinstance(item, bytes) else str(item) for item in answer]


def _state(answer: Any) -> ThrottleState | None:
    text, cap, per_s, restricted, held = _texts(answer)
    if not text:
        return None
    known, rate, slow = from_text(text), float(per_s), restricted == "1"
    limit = allowed_limit(known.limit, int(float(cap)), slow)
    return ThrottleState(limit, int(held), int(float(cap)), rate or None, known.decreases, known.quota_errors, slow)
