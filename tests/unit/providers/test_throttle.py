from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import ProviderError, QuotaError
from rsembed.providers.throttle import (
    Aimd,
    Ended,
    LocalThrottle,
    Permit,
    ThrottleStoppedError,
    reserve,
    step,
    throttle_limits,
)

CAP = 40
GO = threading.Event()  # never set

known = st.builds(
    Aimd,
    limit=st.floats(1.0, CAP),
    decreases=st.integers(0, 5),
    decreased_at=st.floats(0, 100),
    quota_errors=st.integers(0, 9),
)
ended = st.builds(
    Ended,
    outcome=st.sampled_from(["ok", "quota", "other"]),
    started_at=st.floats(0, 100),
    now=st.floats(100, 200),
    in_flight=st.integers(1, 60),
    count=st.integers(1, 100),
)


@given(known, ended)
def test_step_when_anything_happens_then_the_limit_stays_between_one_and_the_cap(aimd: Aimd, each: Ended) -> None:
    assert 1.0 <= step(aimd, each, CAP).limit <= CAP


@given(known, ended)
def test_step_when_a_request_succeeds_then_the_limit_never_falls_and_rises_only_when_all_permits_are_used(
    aimd: Aimd, each: Ended
) -> None:
    after = step(aimd, replace(each, outcome="ok"), CAP)
    full = each.in_flight >= int(aimd.limit) and aimd.limit < CAP
    assert (after.limit > aimd.limit) == full
    assert replace(after, limit=aimd.limit) == aimd


@given(known, ended)
def test_step_when_a_request_fails_otherwise_then_nothing_is_learnt(aimd: Aimd, each: Ended) -> None:
    assert step(aimd, replace(each, outcome="other"), CAP) == aimd


@given(known, ended)
def test_step_when_the_provider_complains_then_the_limit_is_cut_or_the_request_is_older_than_the_last_cut(
    aimd: Aimd, each: Ended
) -> None:
    after = step(aimd, replace(each, outcome="quota"), CAP)
    assert after.quota_errors == aimd.quota_errors + 1
    if each.started_at <= aimd.decreased_at:
        assert after.limit == aimd.limit
    else:
        assert after.limit == max(1.0, 0.7 * min(aimd.limit, each.in_flight))
        assert after.decreased_at == each.now


@given(st.integers(2, CAP), st.lists(st.floats(0, 9.99), min_size=2, max_size=CAP))
def test_step_when_all_of_a_round_trip_complain_then_the_limit_is_cut_once(limit: int, starts: list[float]) -> None:
    aimd = Aimd(float(limit))
    for i, started_at in enumerate(starts):
        aimd = step(aimd, Ended("quota", started_at, 10.0 + i, limit), CAP)
    assert aimd.decreases == 1
    assert aimd.quota_errors == len(starts)
    assert aimd.limit == max(1.0, 0.7 * limit)


@given(st.integers(1, CAP - 1))
def test_step_when_a_full_round_trip_succeeds_then_one_more_is_tried_and_double_before_the_first_complaint(
    limit: int,
) -> None:
    after = {decreases: Aimd(float(limit), decreases=decreases) for decreases in (0, 1)}
    for decreases, aimd in after.items():
        for _ in range(limit):
            aimd = step(aimd, Ended("ok", 0.0, 1.0, CAP), CAP)
        after[decreases] = aimd
    assert after[0].limit == min(CAP, 2 * limit)
    assert limit + 0.6 < after[1].limit <= limit + 1.0


@pytest.mark.parametrize("quota", [1, 2, 5, 10, 33, CAP])
def test_step_when_the_provider_takes_n_at_a_time_then_the_limit_settles_around_n(quota: int) -> None:
    aimd, now, limits = Aimd(10.0), 0.0, []
    for round_trip in range(150):
        sent, began = int(aimd.limit), now
        now += 1.0
        for i in range(sent):
            outcome = "ok" if i < quota else "quota"
            aimd = step(aimd, Ended(outcome, began, now, sent), CAP)
        if round_trip >= 60:
            limits.append(sent)
    assert max(limits) <= quota + 2
    assert sum(min(n, quota) for n in limits) >= 0.75 * quota * len(limits)


@given(st.lists(st.floats(0, 0.2), max_size=60), st.sampled_from([5.0, 100.0]))
def test_reserve_when_requests_come_at_any_time_then_starts_are_never_closer_than_the_rate(
    gaps: list[float], per_s: float
) -> None:
    now, following, starts = 1.0, 0.0, []
    for gap in gaps:
        now += gap
        start, following = reserve(following, now, per_s)
        assert start >= now
        starts.append(start)
    assert all(b - a >= 1 / per_s - 1e-9 for a, b in zip(starts, starts[1:], strict=False))


def test_reserve_when_there_is_no_rate_then_at_once() -> None:
    assert reserve(99.0, 1.0, None) == (1.0, 99.0)


def test_limits_when_of_a_backend_then_its_own_or_the_cautious_ones() -> None:
    assert (throttle_limits("gee").cap, throttle_limits("gee").per_s) == (40, 100.0)
    assert (throttle_limits("stac").cap, throttle_limits("stac").per_s) == (64, None)


# In one process


def run(throttle: LocalThrottle, error: Exception | None = None) -> None:
    with contextlib.suppress(ProviderError), throttle.acquire(GO):
        if error is not None:
            raise error


def test_local_when_many_threads_ask_then_never_more_than_the_cap_and_all_are_served() -> None:
    throttle, lock, most, now = LocalThrottle(5, None), threading.Lock(), 0, 0

    def work() -> None:
        nonlocal most, now
        for _ in range(10):
            with throttle.acquire(GO):
                with lock:
                    now += 1
                    most = max(most, now)
                time.sleep(0.001)
                with lock:
                    now -= 1

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 5
    assert throttle.state().in_flight == 0
    assert throttle.state().limit == 5.0


def test_local_when_a_block_ends_by_a_quota_error_then_the_limit_is_cut_and_by_another_it_is_not() -> None:
    throttle = LocalThrottle(10, None)
    held = [throttle.acquire(GO) for _ in range(9)]
    run(throttle, ProviderError("gone"))
    assert throttle.state().limit == 10.0
    run(throttle, QuotaError("slow down"))
    state = throttle.state()
    assert (state.limit, state.decreases, state.quota_errors, state.in_flight) == (7.0, 1, 1, 9)
    for permit in held:  # began before the cut
        with pytest.raises(QuotaError), permit:
            raise QuotaError("slow down")
    state = throttle.state()
    assert (state.limit, state.decreases, state.quota_errors, state.in_flight) == (7.0, 1, 10, 0)


def test_local_when_a_provider_tells_of_a_quota_otherwise_then_the_limit_is_cut() -> None:
    throttle = LocalThrottle(10, None)
    held: list[Permit] = [throttle.acquire(GO) for _ in range(10)]
    throttle.quota()
    assert throttle.state().limit == 7.0
    assert len(held) == 10


def test_local_when_all_permits_are_taken_then_a_stop_ends_the_wait_soon() -> None:
    throttle, stop = LocalThrottle(1, None), threading.Event()
    with throttle.acquire(GO):
        threading.Timer(0.05, stop.set).start()
        began = time.monotonic()
        with pytest.raises(ThrottleStoppedError):
            throttle.acquire(stop)
        assert time.monotonic() - began < 1.0
    assert throttle.state().in_flight == 0


def test_local_when_stopped_before_its_start_comes_then_the_permit_is_given_back() -> None:
    throttle, stop = LocalThrottle(10, 1.0), threading.Event()
    with throttle.acquire(stop):
        stop.set()
        with pytest.raises(ThrottleStoppedError):
            throttle.acquire(stop)
    assert throttle.state().in_flight == 0


def test_local_when_starts_are_counted_then_they_are_spread_evenly() -> None:
    throttle, starts = LocalThrottle(50, 200.0), []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(5):
            with throttle.acquire(GO), lock:
                starts.append(time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(starts) - min(starts) >= 39 / 200.0 - 0.01


def test_local_when_the_provider_restricts_the_project_then_the_state_says_so() -> None:
    throttle = LocalThrottle()
    throttle.restrict(restricted=True)
    assert throttle.state().restricted
    throttle.restrict(restricted=False)
    assert not throttle.state().restricted
