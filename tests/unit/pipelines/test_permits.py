"""Permits that a thread keeps from one request to the next."""

from __future__ import annotations

import threading

import pytest

from rsembed.core.errors import QuotaError
from rsembed.pipelines.permits import Permits
from rsembed.providers.throttle import LocalThrottle, Outcome, Permit, ThrottleState

GO = threading.Event()


class Lasting(Permit):
    """May stay for ``times`` requests in all."""

    def __init__(self, throttle: Recorder, times: int) -> None:
        super().__init__(throttle.ended.append)
        self._left = times
        self._throttle = throttle

    def may_stay(self) -> bool:
        return self._left > 1

    def begin_again(self) -> None:
        self._left -= 1
        self._throttle.again += 1


class Recorder:
    """A throttle that counts; each of its permits lasts for ``times`` requests."""

    def __init__(self, times: int) -> None:
        self.acquired = self.again = 0
        self.ended: list[Outcome] = []
        self._times = times

    def acquire(self, stop: threading.Event) -> Permit:
        self.acquired += 1
        return Lasting(self, self._times)

    def quota(self) -> None: ...
    def restrict(self, restricted: bool) -> None: ...

    def state(self) -> ThrottleState:
        raise AssertionError("nobody here asks for the state")


def refuse() -> None:
    raise QuotaError("slow down")


def test_ask_when_a_permit_may_stay_then_it_serves_the_next_requests_and_is_given_back_once() -> None:
    throttle, permits = Recorder(times=3), Permits()
    assert [permits.ask(throttle, GO, lambda n=n: n) for n in range(4)] == [0, 1, 2, 3]
    assert (throttle.acquired, throttle.again, throttle.ended) == (2, 2, ["ok"])
    permits.drop()
    permits.drop()
    assert throttle.ended == ["ok", "ok"]


def test_ask_when_a_request_is_refused_then_the_permit_ends_with_that() -> None:
    throttle, permits = Recorder(times=9), Permits()
    permits.ask(throttle, GO, lambda: None)
    with pytest.raises(QuotaError):
        permits.ask(throttle, GO, refuse)
    permits.drop()
    assert (throttle.acquired, throttle.again, throttle.ended) == (1, 1, ["quota"])


def test_ask_when_another_throttle_is_asked_then_what_was_kept_goes_back_first() -> None:
    one, other, permits = Recorder(times=9), Recorder(times=9), Permits()
    permits.ask(one, GO, lambda: None)
    permits.ask(other, GO, lambda: None)
    assert (one.ended, other.ended) == (["ok"], [])
    permits.ask(one, GO, lambda: None)
    assert (one.acquired, other.ended) == (2, ["ok"])


def test_ask_when_a_throttle_counts_in_its_own_process_then_nothing_is_kept() -> None:
    throttle, permits = LocalThrottle(2, None), Permits()
    assert permits.ask(throttle, GO, lambda: throttle.state().in_flight) == 1
    assert throttle.state().in_flight == 0
