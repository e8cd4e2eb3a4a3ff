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


def call_with_retry(call: Callable[[], T], policy: RetryPolicy, stop: threading.Event) -> T:
    """The result of ``call``; its last error when ``policy`` is exhausted or ``stop`` is set."""
    failures = quota_waits = 0
    while True:
        try:
            return call()
        except Exception as exc:  # sorted below; what may not be retried is raised as it is
            if isinstance(exc, QuotaError):
                quota_waits += 1
                if quota_waits > policy.max_quota_waits:
                    raise
            elif is_transient(exc):
                failures += 1
                if failures >= policy.max_attempts:
                    raise
            else:
                raise
            exponent = min(16, failures + quota_waits - 1)
            wait_s = random.uniform(0, min(policy.cap_s, policy.base_s * 2**exponent))  # noqa: S311 - jitter
            logger.info("fetch_retry", extra={"error": str(exc), "wait_s": round(wait_s, 3)})
            if stop.wait(wait_s):
                raise
