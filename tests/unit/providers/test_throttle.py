from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import ProviderError, QuotaError
from rsembed.core.settings import ThrottleLimits
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
from tests.unit.providers.quota_simulation import Simulation

CAP = 40
GO = threading.Event()  # never set

known = st.builds(
    Aimd,
    limit=st.floats(1.0, CAP),
    decreases=st.integers(0, 5),
    decreased_at=st.floats(0, 100),
    quota_errors=st.integers(0, 9),
    refused=st.integers(0, CAP),
    in_row=st.integers(0, 3),
    since=st.integers(0, 80),
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
    said_something = aimd.decreases == 0 or each.started_at > aimd.decreased_at
    full = each.in_flight >= int(aimd.limit) and aimd.limit < CAP
    assert (after.limit > aimd.limit) == (full and said_something)
    assert replace(after, limit=aimd.limit, since=aimd.since) == aimd


@given(known, ended)
def test_step_when_a_request_fails_otherwise_then_nothing_is_learnt(aimd: Aimd, each: Ended) -> None:
    assert step(aimd, replace(each, outcome="other"), CAP) == aimd


@given(known, ended)
def test_step_when_the_provider_complains_then_the_limit_falls_below_what_was_refused_or_it_is_old_news(
    aimd: Aimd, each: Ended
) -> None:
    after = step(aimd, replace(each, outcome="quota"), CAP)
    assert after.quota_errors == aimd.quota_errors + 1
    if each.started_at <= aimd.decreased_at or (aimd.decreases and each.in_flight > aimd.limit):
        assert replace(after, quota_errors=aimd.quota_errors) == aimd
    else:
        assert after.limit == 1.0 or after.limit <= min(int(aimd.limit), after.refused) - 1
        assert (after.decreased_at, after.decreases, after.since) == (each.now, aimd.decreases + 1, 0)


@given(st.integers(2, CAP), st.lists(st.floats(0, 9.99), min_size=2, max_size=CAP))
def test_step_when_all_of_a_round_trip_complain_then_the_limit_is_cut_once(limit: int, starts: list[float]) -> None:
    aimd = Aimd(float(limit))
    for i, started_at in enumerate(starts):
        aimd = step(aimd, Ended("quota", started_at, 10.0 + i, limit), CAP)
    assert aimd.decreases == 1
    assert aimd.quota_errors == len(starts)
    assert aimd.limit == limit - 1


def test_step_when_requests_begun_after_a_cut_are_refused_then_each_takes_more() -> None:
    aimd, limits = Aimd(40.0), []
    for second in range(5):
        aimd = step(aimd, Ended("quota", second + 0.5, second + 1.0, int(aimd.limit)), CAP)
        limits.append(int(aimd.limit))
    assert limits == [39, 33, 23, 11, 5]


def test_step_when_a_refusal_comes_a_round_trip_after_the_last_then_it_takes_little_again() -> None:
    aimd = Aimd(20.0, decreases=3, decreased_at=1.0, refused=21, in_row=3)
    for _ in range(20):
        aimd = step(aimd, Ended("ok", 2.0, 3.0, 20), CAP)
    assert step(aimd, Ended("quota", 4.0, 5.0, 20), CAP).limit == 19.0


def test_step_when_few_requests_are_under_way_then_a_refusal_speaks_of_those() -> None:
    assert step(Aimd(40.0), Ended("quota", 1.0, 2.0, 5), CAP).limit == 4.0
    assert step(Aimd(40.0), Ended("quota", 1.0, 2.0, 35), CAP).limit == 39.0


@given(st.integers(1, CAP - 1))
def test_step_when_nobody_complained_yet_then_a_full_round_trip_doubles_the_limit(limit: int) -> None:
    aimd = Aimd(float(limit))
    for _ in range(limit):
        aimd = step(aimd, Ended("ok", 0.0, 1.0, CAP), CAP)
    assert aimd.limit == min(CAP, 2 * limit)


def successes_until(aimd: Aimd, limit: float) -> int:
    """Successes with all permits in use until ``limit`` is reached."""
    for count in range(10_000):
        if aimd.limit >= limit:
            return count
        aimd = step(aimd, Ended("ok", 2.0, 3.0, CAP), CAP)
    return -1


def test_step_when_one_below_what_was_refused_then_another_is_tried_only_after_a_while() -> None:
    assert successes_until(Aimd(19.0, decreases=1, decreased_at=1.0, refused=20), 20.0) in (150, 151)
    assert successes_until(Aimd(4.0, decreases=1, decreased_at=1.0, refused=5), 5.0) in (48, 49)


def test_step_when_far_below_what_was_refused_then_it_is_soon_back() -> None:
    assert successes_until(Aimd(10.0, decreases=1, decreased_at=1.0, refused=21), 20.0) < 6 * 20


def test_step_when_what_was_refused_no_longer_is_then_the_limit_grows_faster_and_faster() -> None:
    grown = Aimd(10.0, decreases=1, decreased_at=1.0, refused=10)
    assert successes_until(grown, 12.0) < 3 * 10
    assert successes_until(grown, 40.0) < 120


@pytest.mark.parametrize("seed", range(3))
def test_simulation_when_the_quota_goes_40_10_40_then_it_is_used_soon_and_hardly_ever_exceeded(seed: int) -> None:
    for phase in Simulation(seed=seed).run((40, 10, 40), 30.0):
        assert phase.share >= 0.9
        assert phase.refused <= 0.02
        assert phase.settled_s <= 5.0


@pytest.mark.parametrize(
    ("quotas", "latency_s"), [((33, 33), 0.2), ((30, 7, 25), 0.2), ((5, 20, 3), 0.1), ((25, 9), 1)]
)
def test_simulation_when_the_quota_is_any_other_then_it_is_found(quotas: tuple[int, ...], latency_s: float) -> None:
    for phase in Simulation(latency_s=latency_s).run(quotas, 150 * latency_s):
        assert phase.share >= 0.9
        assert phase.refused <= 0.04
        assert phase.settled_s <= 30.0


@pytest.mark.parametrize(("noise", "least"), [(0.002, 0.8), (0.01, 0.2)])
def test_simulation_when_some_are_refused_whatever_the_level_then_work_goes_on(noise: float, least: float) -> None:
    [_, phase] = Simulation(noise=noise).run((40, 40), 60.0)
    assert phase.share >= least


def test_simulation_when_everything_is_refused_then_one_at_a_time_asks() -> None:
    simulation = Simulation()
    simulation.run((40, 0), 20.0)
    assert simulation.aimd.limit == 1.0


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


def test_limits_when_stated_then_those_count() -> None:
    stated = (("gee", ThrottleLimits(80, 200.0)),)
    assert throttle_limits("gee", stated) == ThrottleLimits(80, 200.0)
    assert throttle_limits("stac", stated) == throttle_limits("stac")


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
    assert (state.limit, state.decreases, state.quota_errors, state.in_flight) == (9.0, 1, 1, 9)
    for permit in held:  # began before the cut
        with pytest.raises(QuotaError), permit:
            raise QuotaError("slow down")
    state = throttle.state()
    assert (state.limit, state.decreases, state.quota_errors, state.in_flight) == (9.0, 1, 10, 0)


def test_local_when_a_provider_tells_of_a_quota_otherwise_then_the_limit_is_cut() -> None:
    throttle = LocalThrottle(10, None)
    held: list[Permit] = [throttle.acquire(GO) for _ in range(10)]
    throttle.quota()
    assert throttle.state().limit == 9.0
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


def test_local_when_the_provider_restricts_the_project_then_a_quarter_is_asked_until_it_ends() -> None:
    throttle, stop = LocalThrottle(8, None), threading.Event()
    throttle.restrict(restricted=True)
    assert (throttle.state().restricted, throttle.state().limit) == (True, 2.0)
    with throttle.acquire(GO), throttle.acquire(GO):
        stop.set()
        with pytest.raises(ThrottleStoppedError):
            throttle.acquire(stop)
    throttle.restrict(restricted=False)
    assert (throttle.state().restricted, throttle.state().limit) == (False, 8.0)
