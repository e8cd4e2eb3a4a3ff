"""The fleet's throttle in several real processes on a real Redis."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rsembed.core.errors import ProviderError, QuotaError
from rsembed.pipelines.permits import Permits
from rsembed.providers.throttle import Throttle, ThrottleStoppedError
from workers.broker import BrokerAwayError, connect_redis
from workers.permit_store import throttle_states
from workers.permits import HANDOVER_S, RedisThrottle
from workers.servers.redis import EmbeddedRedis

ROOT = Path(__file__).resolve().parents[2]
LEASE_S = 0.6
GO = threading.Event()  # never set


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    redis = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    redis.start()
    yield redis
    redis.stop()


@pytest.fixture
def url(server: EmbeddedRedis) -> str:
    """A Redis that knows nothing."""
    if not server.is_running:
        server.start()
    flush(server.url)
    return server.url


def flush(url: str) -> None:
    with closing(connect_redis(url)) as client:
        client.flushall()


def opened(url: str, *, cap: int = 8, per_s: float | None = None, lease_s: float = LEASE_S) -> RedisThrottle:
    return RedisThrottle(url, "test", cap, per_s, lease_s)


@pytest.fixture
def throttle(url: str) -> Iterator[RedisThrottle]:
    """Of cap 8, open and grown to its cap."""
    found = opened(url)
    grow(found)
    yield found
    found.close()


def grow(throttle: Throttle) -> None:
    """Use every permit until the limit is the cap."""
    while (state := throttle.state()).limit < state.cap or state.cap == 0:
        threads = [threading.Thread(target=once, args=(throttle, 0.01)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def once(throttle: Throttle, work_s: float = 0.0) -> None:
    with throttle.acquire(GO):
        time.sleep(work_s)


def refused(throttle: Throttle, wait_s: float = 0.3) -> bool:
    """Whether no permit is had within ``wait_s``."""
    stop = threading.Event()
    threading.Timer(wait_s, stop.set).start()
    try:
        with throttle.acquire(stop):
            return False
    except ThrottleStoppedError:
        return True


def test_throttle_when_redis_knows_nothing_then_no_permit_for_a_lease_and_then_a_quarter(url: str) -> None:
    with closing(opened(url, lease_s=1.0)) as throttle:
        assert throttle.state().limit == 2.0
        began = time.monotonic()
        held = [throttle.acquire(GO), throttle.acquire(GO)]
        assert 0.9 < time.monotonic() - began < 2.0
        assert refused(throttle)
        assert throttle.state().in_flight == 2
        for permit in held:
            permit.__exit__(None, None, None)


def test_throttle_when_permits_are_all_used_with_success_then_the_limit_grows_to_the_cap(
    throttle: RedisThrottle,
) -> None:
    state = throttle.state()
    assert (state.limit, state.in_flight, state.cap, state.rate_cap) == (8.0, 0, 8, None)


def test_throttle_when_a_request_ends_in_a_quota_error_then_another_process_sees_the_cut(
    url: str, throttle: RedisThrottle
) -> None:
    held = [throttle.acquire(GO) for _ in range(7)]
    with pytest.raises(QuotaError), throttle.acquire(GO):
        raise QuotaError("slow down")
    for permit in held:
        permit.__exit__(QuotaError, QuotaError("slow down"), None)
    with closing(opened(url)) as other:
        state = other.state()
    assert state.limit == 7.0
    assert (state.decreases, state.quota_errors, state.in_flight) == (1, 8, 0)
    throttle.quota()
    assert throttle.state().decreases == 2


def test_throttle_when_a_request_fails_otherwise_then_nothing_is_cut(throttle: RedisThrottle) -> None:
    with pytest.raises(ProviderError), throttle.acquire(GO):
        raise ProviderError("no such place")
    assert (throttle.state().limit, throttle.state().in_flight) == (8.0, 0)


def test_throttle_when_redis_is_flushed_then_holders_are_counted_again_before_anybody_gets_more(
    url: str, throttle: RedisThrottle
) -> None:
    held = [throttle.acquire(GO) for _ in range(5)]
    flush(url)
    with closing(opened(url)) as other:
        assert refused(other, 2.5 * LEASE_S)
        state = other.state()
        assert (state.limit, state.in_flight) == (2.0, 5)
        for permit in held[:4]:
            permit.__exit__(None, None, None)
        once(other)
    held[4].__exit__(None, None, None)


def test_throttle_when_its_process_lives_then_a_permit_outlasts_its_lease(throttle: RedisThrottle) -> None:
    with throttle.acquire(GO):
        time.sleep(2 * LEASE_S)
        assert throttle.state().in_flight == 1
    assert throttle.state().in_flight == 0


def test_throttle_when_redis_is_away_then_no_permits_a_stop_ends_the_wait_and_it_goes_on_after(
    server: EmbeddedRedis, throttle: RedisThrottle
) -> None:
    held = throttle.acquire(GO)
    server.stop()
    try:
        assert refused(throttle, 0.5)
        with pytest.raises(BrokerAwayError):
            throttle.state()
        with pytest.raises(BrokerAwayError):
            throttle_states(server.url)
        throttle.quota()
        throttle.restrict(restricted=True)
    finally:
        server.start()
    once(throttle)
    assert throttle.state().in_flight == 1
    held.__exit__(None, None, None)


def test_throttle_when_redis_stood_still_longer_than_a_lease_then_holders_come_before_new_ones(
    server: EmbeddedRedis, url: str, throttle: RedisThrottle
) -> None:
    held = [throttle.acquire(GO) for _ in range(8)]
    with closing(opened(url)) as other, closing(connect_redis(url)) as client:
        # What stands there after a long silence: leases that ran out, nobody who renewed them.
        client.zadd("rsembed:throttle:test:permits", {f"p{i}": 1.0 for i in range(8)})
        client.hset("rsembed:throttle:test", "touched_at", "1")
        assert refused(other, 0.8 * LEASE_S)
        assert other.state().in_flight == 8
    for permit in held:
        permit.__exit__(None, None, None)


def test_throttle_when_idle_for_long_then_the_first_permit_is_had_at_once(url: str, throttle: RedisThrottle) -> None:
    with closing(connect_redis(url)) as client:
        client.hset("rsembed:throttle:test", "touched_at", "1")
    began = time.monotonic()
    once(throttle)
    assert time.monotonic() - began < LEASE_S / 2


def test_throttle_when_starts_are_counted_then_they_are_spread_over_threads_and_throttles(url: str) -> None:
    starts: list[float] = []
    with closing(opened(url, cap=40, per_s=50.0)) as a, closing(opened(url, cap=40, per_s=50.0)) as b:
        once(a)

        def work(throttle: Throttle) -> None:
            for _ in range(5):
                with throttle.acquire(GO):
                    starts.append(time.monotonic())

        threads = [threading.Thread(target=work, args=(throttle,)) for throttle in (a, b) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(starts) == 40
    assert 0.7 < max(starts) - min(starts) < 2.5


def test_throttle_when_requests_are_short_and_uncounted_then_permits_go_from_thread_to_thread(
    url: str, throttle: RedisThrottle
) -> None:
    with closing(connect_redis(url)) as client:
        before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
        threads = [threading.Thread(target=lambda: [once(throttle, 0.001) for _ in range(50)]) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    assert calls < 800  # without handing over: two for each of the 800 requests
    assert throttle.state().in_flight == 0


def test_throttle_when_closed_then_nothing_of_it_is_held(url: str, throttle: RedisThrottle) -> None:
    once(throttle)
    throttle.close()
    states = throttle_states(url)
    assert list(states) == ["test"]
    assert states["test"].in_flight == 0


def test_throttle_when_the_provider_restricts_the_project_then_every_process_sees_it(
    url: str, throttle: RedisThrottle
) -> None:
    throttle.restrict(restricted=True)
    assert throttle_states(url)["test"].restricted
    with closing(opened(url)) as other, other.acquire(GO), throttle.acquire(GO):
        assert throttle.state().limit == 2.0  # a quarter
        assert refused(other)
    throttle.restrict(restricted=False)
    assert not throttle_states(url)["test"].restricted


# Several processes


class Holders:
    """Processes of ``permit_holder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[str]] = []

    def start(
        self, url: str, *, cap: int = 8, per_s: float = 0, threads: int = 6, work_s: float = 0.05
    ) -> subprocess.Popen[str]:
        options = [url, cap, per_s, LEASE_S, threads, work_s, self._folder]
        command = [sys.executable, "-m", "tests.integration.permit_holder", *map(str, options)]
        self._running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        return self._running[-1]

    def end(self) -> list[tuple[float, float, str]]:
        """Stop all; what each request was, by its start."""
        (self._folder / "stop").touch()
        requests = []
        for process in self._running:
            out, _ = process.communicate(timeout=30)
            for line in out.splitlines():
                began, ended, outcome = line.split()
                requests.append((float(began), float(ended), outcome))
        self._running.clear()
        return sorted(requests)

    def kill(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[Holders]:
    found = Holders(tmp_path)
    yield found
    found.kill()


def most_at_once(requests: list[tuple[float, float, str]]) -> int:
    changes = sorted([(began, 1) for began, *_ in requests] + [(ended, -1) for _, ended, _ in requests])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_processes_when_they_share_a_throttle_then_together_they_stay_below_the_cap_and_use_it(
    url: str, holders: Holders
) -> None:
    for _ in range(3):
        holders.start(url)
    until(lambda: "test" in throttle_states(url) and throttle_states(url)["test"].limit == 8.0)
    time.sleep(1.0)
    requests = holders.end()
    assert most_at_once(requests) == 8
    last = [each for each in requests if each[0] > requests[-1][0] - 0.8]
    assert len(last) * 0.05 >= 0.3 * 0.8 * 8


def test_processes_when_one_is_killed_then_its_permits_come_back_after_their_lease(url: str, holders: Holders) -> None:
    victim = holders.start(url, threads=8, work_s=30.0)
    until(lambda: "test" in throttle_states(url) and throttle_states(url)["test"].in_flight == 2)
    victim.send_signal(signal.SIGKILL)
    with closing(opened(url)) as throttle:
        began = time.monotonic()
        once(throttle)
        assert time.monotonic() - began < 3 * LEASE_S


def test_processes_when_the_provider_complains_then_all_of_them_slow_down_and_recover(
    url: str, holders: Holders, tmp_path: Path
) -> None:
    for _ in range(2):
        holders.start(url)
    until(lambda: "test" in throttle_states(url) and throttle_states(url)["test"].limit == 8.0)
    (tmp_path / "quota").touch()
    until(lambda: throttle_states(url)["test"].limit < 2.0)
    (tmp_path / "quota").unlink()
    until(lambda: throttle_states(url)["test"].limit == 8.0)
    assert any(outcome == "quota" for *_, outcome in holders.end())


def test_processes_when_redis_is_flushed_again_and_again_then_never_more_than_the_cap_and_a_quarter(
    url: str, holders: Holders
) -> None:
    for _ in range(3):
        holders.start(url, work_s=0.3)
    for _ in range(3):
        until(lambda: any(state.in_flight for state in throttle_states(url).values()))
        time.sleep(1.0)
        flush(url)
    until(lambda: any(state.in_flight for state in throttle_states(url).values()))
    requests = holders.end()
    assert requests
    assert most_at_once(requests) <= 8


def test_permit_when_nobody_else_of_its_process_waits_then_a_thread_keeps_it_for_a_moment(
    url: str, throttle: RedisThrottle
) -> None:
    permits = Permits()
    with closing(opened(url)) as other:
        for _ in range(20):
            assert permits.ask(throttle, GO, lambda: other.state().in_flight) == 1
        assert other.state().in_flight == 1
        permits.drop()
        assert other.state().in_flight == 0
        # One whose time is over is given back with its request.
        permits.ask(throttle, GO, lambda: time.sleep(HANDOVER_S))
        assert other.state().in_flight == 0


def test_permit_when_another_thread_waits_then_it_gets_what_was_used(url: str, throttle: RedisThrottle) -> None:
    held = [throttle.acquire(GO) for _ in range(7)]
    waiter = threading.Thread(target=once, args=(throttle,))

    def request() -> None:
        waiter.start()
        time.sleep(0.1)  # until it waits: all eight are in use

    permits = Permits()
    permits.ask(throttle, GO, request)
    waiter.join(timeout=5)
    assert not waiter.is_alive()
    for permit in held:
        permit.end()


def test_permit_when_a_refusal_came_meanwhile_then_it_is_not_kept(url: str, throttle: RedisThrottle) -> None:
    permits = Permits()

    def request() -> None:
        with contextlib.suppress(QuotaError), throttle.acquire(GO):
            raise QuotaError("slow down")

    permits.ask(throttle, GO, request)
    with closing(opened(url)) as other:
        assert other.state().in_flight == 0
