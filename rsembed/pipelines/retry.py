"""Try again what may succeed later, with jitter; give up at once on what cannot."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rsembed.core.errors import QuotaError, is_transient

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How patient to be with one row.

    ``max_attempts``: calls in all for transient errors. A quota error is not an attempt (it
    says nothing about the row) but waits up to ``max_quota_waits`` times. Waits are drawn
    uniformly from 0 .. ``min(cap_s, base_s * 2**n)`` seconds ("full jitter").
    """

    max_attempts: int = 4
    base_s: float = 0.5
    cap_s: float = 30.0
    max_quota_waits: int = 20


class Tries:
    """What one request has been through, and whether it is to be made again."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = self._quota_waits = 0

    def wait_s(self, error: BaseException) -> float | None:
        """Seconds until the request that ended in ``error`` may be made again; None when it may not."""
        policy = self._policy
        if isinstance(error, QuotaError):
            self._quota_waits += 1
            again = self._quota_waits <= policy.max_quota_waits
        else:
            self._failures += is_transient(error)
            again = is_transient(error) and self._failures < policy.max_attempts
        if not again:
            return None
        exponent = min(16, self._failures + self._quota_waits - 1)
        wait_s = random.uniform(0, min(policy.cap_s, policy.base_s * 2**exponent))  # noqa: S311 - jitter
        logger.info("fetch_retry", extra={"error": str(error), "wait_s": round(wait_s, 3)})
        return wait_s


def call_with_retry(call: Callable[[], T], policy: RetryPolicy, stop: threading.Event) -> T:
    """The result of ``call``; its last error when ``policy`` is exhausted or ``stop`` is set."""
    tries = Tries(policy)
    while True:
        try:
            return call()
        except Exception as exc:  # what may not be retried is raised as it is
            wait_s = tries.wait_s(exc)
            if wait_s is None or stop.wait(wait_s):
                raise
