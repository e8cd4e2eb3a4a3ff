from __future__ import annotations

import threading

import pytest

from rsembed.core.errors import AuthError, ProviderError, QuotaError, TooComplexError, TransientProviderError
from rsembed.pipelines.retry import RetryPolicy, call_with_retry

FAST = RetryPolicy(max_attempts=3, base_s=0.0001, cap_s=0.0002, max_quota_waits=5)


class Script:
    """Raises the errors of a script one by one, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.mark.parametrize("error", [TransientProviderError("x"), TimeoutError(), ConnectionResetError()])
def test_retry_when_errors_are_transient_then_the_call_is_repeated(error: Exception) -> None:
    script = Script(error, error)
    assert call_with_retry(script, FAST, threading.Event()) == "answer"
    assert script.calls == 3


def test_retry_when_attempts_are_used_up_then_the_last_error_is_raised() -> None:
    script = Script(*(TransientProviderError(str(i)) for i in range(9)))
    with pytest.raises(TransientProviderError, match="2"):
        call_with_retry(script, FAST, threading.Event())
    assert script.calls == 3


@pytest.mark.parametrize(
    "error", [ProviderError("x"), AuthError("x"), TooComplexError("x"), ValueError("x"), KeyError("x")]
)
def test_retry_when_asking_again_cannot_help_then_raised_at_once(error: Exception) -> None:
    script = Script(error)
    with pytest.raises(type(error)):
        call_with_retry(script, FAST, threading.Event())
    assert script.calls == 1


def test_retry_when_told_to_slow_down_then_it_is_not_an_attempt() -> None:
    quota, lost = QuotaError("slow"), TransientProviderError("lost")
    script = Script(quota, quota, quota, lost, quota, lost)
    assert call_with_retry(script, FAST, threading.Event()) == "answer"
    assert script.calls == 7


def test_retry_when_quota_never_ends_then_it_is_raised_after_its_own_limit() -> None:
    script = Script(*(QuotaError("slow") for _ in range(50)))
    with pytest.raises(QuotaError):
        call_with_retry(script, FAST, threading.Event())
    assert script.calls == 6


def test_retry_when_stopped_while_waiting_then_the_error_is_raised_without_another_call() -> None:
    stop = threading.Event()
    stop.set()
    script = Script(TransientProviderError("x"))
    with pytest.raises(TransientProviderError):
        call_with_retry(script, RetryPolicy(base_s=60, cap_s=60), stop)
    assert script.calls == 1


def test_retry_when_it_waits_then_the_wait_is_drawn_below_the_cap() -> None:
    waits: list[float] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    policy = RetryPolicy(max_attempts=40, base_s=1.0, cap_s=8.0)
    script = Script(*(TransientProviderError("x") for _ in range(39)))
    call_with_retry(script, policy, Clock())
    assert len(waits) == 39
    assert all(0 <= wait <= min(8.0, 2.0**i) for i, wait in enumerate(waits))
    assert len(set(waits)) > 30  # jitter
