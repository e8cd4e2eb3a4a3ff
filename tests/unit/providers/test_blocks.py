"""Values that threads share, and the threads that load them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rsembed.core.errors import TransientProviderError
from rsembed.providers.blocks import SharedCache, memory_share
from rsembed.providers.loaders import LoaderThreads


def test_get_when_asked_again_then_made_once() -> None:
    cache: SharedCache[int] = SharedCache(10)
    assert [cache.get("a", lambda: 1), cache.get("a", lambda: 2)] == [1, 1]


def test_get_when_over_the_capacity_then_the_longest_unused_goes() -> None:
    cache: SharedCache[str] = SharedCache(6, len)
    for key in "abc":
        cache.get(key, lambda: "xx")
    cache.get("a", lambda: "new")
    cache.get("d", lambda: "xx")
    assert [cache.get(key, lambda: "?") for key in "ad"] == ["xx", "xx"]
    assert cache.get("b", lambda: "?") == "?"
    assert cache.total <= 6


def test_get_when_one_value_is_larger_than_all_room_then_it_is_still_given() -> None:
    cache: SharedCache[str] = SharedCache(2, len)
    assert cache.get("a", lambda: "xxxxx") == "xxxxx"
    cache.get("b", lambda: "y")
    assert cache.total == 1


def test_get_when_making_fails_then_the_fault_is_not_kept() -> None:
    cache: SharedCache[int] = SharedCache(10)

    def fail() -> int:
        raise TransientProviderError("gone")

    with pytest.raises(TransientProviderError):
        cache.get("a", fail)
    assert cache.get("a", lambda: 1) == 1


def test_get_when_threads_meet_then_one_makes_and_all_share() -> None:
    cache: SharedCache[object] = SharedCache(10)
    meet, made = threading.Barrier(8), []

    def make() -> object:
        made.append(1)
        return object()

    def ask() -> object:
        meet.wait()
        return cache.get("a", make)

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert (len(set(map(id, found))), len(made)) == (1, 1)


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", None), (str(8 << 30), 1 << 30), (str(1 << 30), 256 << 20), ("nonsense", None)]
)
def test_memory_share_when_a_container_has_a_limit_then_an_eighth_of_it_within_bounds(
    tmp_path: Path, limit: str, expected: int | None
) -> None:
    (tmp_path / "limit").write_text(limit)
    machine = memory_share([tmp_path / "nowhere"])
    assert memory_share([tmp_path / "limit"]) == (machine if expected is None else min(machine, expected))


def test_drop_when_wanted_then_forgotten_and_weighed_off() -> None:
    cache: SharedCache[str] = SharedCache(10, len)
    cache.get(("a", 1), lambda: "xx")
    cache.get(("b", 1), lambda: "yyy")
    cache.drop(lambda key: key == ("a", 1))
    assert (cache.total, cache.get(("a", 1), lambda: "z")) == (3, "z")


def test_submit_when_calls_wait_for_each_other_then_as_many_threads_run() -> None:
    loaders, meet = LoaderThreads(4), threading.Barrier(4)
    assert sorted(future.result() for future in [loaders.submit(meet.wait) for _ in range(4)]) == [0, 1, 2, 3]
    loaders.close()


def test_submit_when_a_call_fails_then_its_future_raises_and_the_thread_goes_on() -> None:
    loaders = LoaderThreads(1)

    def fail() -> None:
        raise TransientProviderError("gone")

    failed, fine = loaders.submit(fail), loaders.submit(lambda: 1)
    with pytest.raises(TransientProviderError):
        failed.result()
    assert fine.result() == 1
    loaders.close()


def test_submit_when_cancelled_before_its_turn_then_the_call_is_never_made() -> None:
    loaders, gate, made = LoaderThreads(1), threading.Event(), []
    first = loaders.submit(gate.wait)
    second, third = loaders.submit(lambda: made.append(2)), loaders.submit(lambda: made.append(3))
    assert second.cancel()
    gate.set()
    third.result()
    assert first.result()
    assert made == [3]
    loaders.close()
