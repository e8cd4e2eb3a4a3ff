from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rsembed.core.errors import CollectionGapError, ProviderError, QuotaError, TransientProviderError
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Patch
from rsembed.pipelines.fetch_unit import FetchedUnit, FetchUnit, RowFailure
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.prefetch import PrefetchManager
from rsembed.pipelines.retry import RetryPolicy
from rsembed.testing.null import NullProvider
from tests.builders import Flaky, at_lon, places, row_table, run_plan

FAST = RetryPolicy(max_attempts=3, base_s=0.0001, cap_s=0.0002, max_quota_waits=6)
Units = list[tuple[FetchUnit, InputPack]]


class Tally(NullProvider):
    """Counts calls safely, and how many are in flight at once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lock = threading.Lock()
        self.made, self.now, self.most = 0, 0, 0

    def fetch(self, request: FetchRequest) -> Patch:
        with self.lock:
            self.made += 1
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return super().fetch(request)
        finally:
            with self.lock:
                self.now -= 1


def make_units(
    folder: Path, n: int = 12, *, shard_size: int = 5, source: object = None
) -> Iterator[tuple[FetchUnit, InputPack]]:
    plan = run_plan(shard_size=shard_size)
    (group,) = plan.groups
    table = row_table(places(n) if source is None else source, folder)
    for index in range(table.n_shards(shard_size)):
        shard = table.shard(index, shard_size)
        unit = FetchUnit(group, index, shard, {"null": tuple(range(len(shard)))}, plan.group_digest(group), None)
        yield unit, InputPack(folder / f"unit-{index}.pack")


def fetch_all(
    manager: PrefetchManager, units: Iterator[tuple[FetchUnit, InputPack]], *, shard_size: int = 5
) -> list[FetchedUnit]:
    found = []
    for fetched in manager.run(units, shard_size=shard_size):
        assert fetched.open == 0
        for slot in fetched.unit.slots:
            assert (slot in fetched.failures) != (fetched.pack.get(fetched.keys[slot]) is not None)
        found.append(fetched)
        manager.release(fetched)
    return sorted(found, key=lambda each: each.unit.index)


def failed_ids(found: Sequence[FetchedUnit]) -> dict[str, RowFailure]:
    return {each.unit.shard.ids[slot].as_py(): failure for each in found for slot, failure in each.failures.items()}


def test_prefetch_when_run_then_every_slot_is_settled_once(tmp_path: Path) -> None:
    provider, settled = Tally(), []
    manager = PrefetchManager(provider, workers=4, retry=FAST, on_settled=settled.append)
    found = fetch_all(manager, make_units(tmp_path))
    assert [each.unit.index for each in found] == [0, 1, 2]
    assert provider.made == sum(each.requests for each in found) == sum(settled) == 12
    assert [each.fetched for each in found] == [5, 5, 2]


def test_prefetch_when_rows_ask_for_the_same_pixels_then_one_request(tmp_path: Path) -> None:
    provider, settled = Tally(), []
    manager = PrefetchManager(provider, workers=4, on_settled=settled.append)
    (found,) = fetch_all(manager, make_units(tmp_path, source=[(2.0, 42.0)] * 50, shard_size=50), shard_size=50)
    assert provider.made == found.requests == 1
    assert sum(settled) == 50
    assert len(set(found.keys.values())) == 1


def test_prefetch_when_packs_hold_the_patches_then_no_call_is_made(tmp_path: Path) -> None:
    fetch_all(PrefetchManager(NullProvider(), workers=4), make_units(tmp_path))
    provider, settled = Tally(), []
    found = fetch_all(PrefetchManager(provider, workers=4, on_settled=settled.append), make_units(tmp_path))
    assert provider.made == 0
    assert sum(settled) == 12
    assert sum(each.requests for each in found) == 0


def test_prefetch_when_one_row_fails_for_good_then_it_is_asked_once_and_its_neighbours_are_there(
    tmp_path: Path,
) -> None:
    provider = Tally(fault=Flaky(lambda: ProviderError("no such band"), hits=at_lon(2.03)))
    found = fetch_all(PrefetchManager(provider, workers=4, retry=FAST), make_units(tmp_path))
    assert failed_ids(found) == {"p3": RowFailure("fetch", "provider", "ProviderError: no such band")}
    assert provider.made == 12


def test_prefetch_when_errors_pass_then_they_are_retried_and_nothing_is_recorded(tmp_path: Path) -> None:
    provider = Tally(fault=Flaky(lambda: TransientProviderError("lost"), times=2))
    found = fetch_all(PrefetchManager(provider, workers=4, retry=FAST), make_units(tmp_path))
    assert failed_ids(found) == {}
    assert provider.made == 3 * 12


def test_prefetch_when_errors_stay_then_attempts_end_and_the_class_is_recorded(tmp_path: Path) -> None:
    provider = Tally(fault=Flaky(lambda: TransientProviderError("lost"), hits=at_lon(2.03)))
    found = fetch_all(PrefetchManager(provider, workers=4, retry=FAST), make_units(tmp_path))
    assert failed_ids(found)["p3"].error_class == "transient"
    assert provider.made == 11 + 3


def test_prefetch_when_told_to_slow_down_then_it_is_not_an_attempt(tmp_path: Path) -> None:
    provider = Tally(fault=Flaky(lambda: QuotaError("slow"), hits=at_lon(2.03), times=5))
    found = fetch_all(PrefetchManager(provider, workers=4, retry=FAST), make_units(tmp_path))
    assert failed_ids(found) == {}
    assert provider.made == 11 + 6


def test_prefetch_when_an_error_is_unforeseen_then_it_belongs_to_its_row(tmp_path: Path) -> None:
    provider = Tally(fault=Flaky(lambda: ZeroDivisionError("bad file \udcff" + "x" * 5000), hits=at_lon(2.03)))
    failure = failed_ids(fetch_all(PrefetchManager(provider, workers=4), make_units(tmp_path)))["p3"]
    assert failure.error_class == "internal"
    assert len(failure.message.encode()) < 2100


def test_prefetch_when_the_consumer_holds_units_then_no_more_are_opened(tmp_path: Path) -> None:
    served: list[int] = []

    def watched() -> Iterator[tuple[FetchUnit, InputPack]]:
        for unit, pack in make_units(tmp_path, 40, shard_size=2):
            served.append(unit.index)
            yield unit, pack

    manager = PrefetchManager(NullProvider(), workers=4, max_open_units=3)
    stream = manager.run(watched(), shard_size=2)
    held = [next(stream) for _ in range(3)]
    assert len(served) == 3
    for released in range(1, 18):
        manager.release(held.pop(0))
        held.append(next(stream))
        assert len(served) == 3 + released
    for each in held:
        manager.release(each)
    assert list(stream) == []


def test_prefetch_when_a_row_is_slow_then_the_other_workers_go_on_past_the_border_of_its_shard(tmp_path: Path) -> None:
    gate, others = threading.Event(), threading.Semaphore(0)
    slow = at_lon(2.0)

    def fault(request: FetchRequest) -> None:
        if slow(request):
            assert gate.wait(10)
        else:
            others.release()

    manager = PrefetchManager(Tally(fault=fault), workers=2, max_open_units=6)
    stream = manager.run(make_units(tmp_path, 10, shard_size=2), shard_size=2)
    early = [next(stream) for _ in range(4)]  # every shard but that of the slow row, while it is in flight
    assert not gate.is_set()
    assert all("p0" not in each.unit.shard.ids.to_pylist() for each in early)
    gate.set()
    late = list(stream)
    assert [("p0" in each.unit.shard.ids.to_pylist()) for each in late] == [True]


def test_prefetch_when_there_are_workers_then_as_many_requests_are_in_flight(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=10)
    provider = Tally(fault=lambda _: together.wait() and None)
    fetch_all(PrefetchManager(provider, workers=4), make_units(tmp_path, 12, shard_size=3), shard_size=3)
    assert provider.most == 4


def test_prefetch_when_planning_a_unit_fails_then_the_consumer_hears_of_it(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[FetchUnit, InputPack]]:
        yield next(make_units(tmp_path))
        raise RuntimeError("the table is gone")

    with pytest.raises(RuntimeError, match="the table is gone"):
        fetch_all(PrefetchManager(NullProvider(), workers=2), broken())


def test_prefetch_when_there_is_nothing_to_do_then_it_ends(tmp_path: Path) -> None:
    assert fetch_all(PrefetchManager(NullProvider(), workers=2), iter(())) == []


def test_prefetch_when_stopped_then_no_new_request_begins_and_its_threads_end(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    gate, started = threading.Event(), threading.Event()

    def fault(_: FetchRequest) -> None:
        started.set()
        assert gate.wait(10)

    provider = Tally(fault=fault)
    manager = PrefetchManager(provider, workers=2, max_open_units=3)
    consumer = threading.Thread(target=lambda: next(manager.run(make_units(tmp_path), shard_size=5)), daemon=True)
    consumer.start()
    assert started.wait(10)
    manager.stop()
    gate.set()
    for thread in set(threading.enumerate()) - before - {consumer}:
        thread.join(10)
        assert not thread.is_alive()
    assert provider.made <= 2


def test_prefetch_when_a_request_is_refused_then_its_thread_serves_others_meanwhile(tmp_path: Path) -> None:
    asked = threading.Semaphore(0)
    flaky = Flaky(lambda: QuotaError("slow"), hits=at_lon(2.0))

    def fault(request: FetchRequest) -> None:
        asked.release()
        flaky(request)

    patient = RetryPolicy(base_s=1e6, cap_s=1e6)
    manager = PrefetchManager(Tally(fault=fault), workers=1, retry=patient)
    for unit, pack in make_units(tmp_path):
        manager.open(unit, pack, lambda *_: None)
    assert all(asked.acquire(timeout=30) for _ in range(12))
    manager.stop()


def test_prefetch_when_every_request_is_refused_then_not_one_after_the_other_is_asked(tmp_path: Path) -> None:
    both = threading.Semaphore(0)

    def fault(_: FetchRequest) -> None:
        both.release()
        raise QuotaError("slow")

    manager = PrefetchManager(Tally(fault=fault), workers=1, retry=RetryPolicy(base_s=1e6, cap_s=1e6))
    for unit, pack in make_units(tmp_path):
        manager.open(unit, pack, lambda *_: None)
    # One is put off, and then the thread waits with the other.
    assert all(both.acquire(timeout=30) for _ in range(2))
    assert not both.acquire(timeout=0.2)
    manager.stop()


def test_prefetch_when_stored_bytes_are_lost_then_the_row_is_fetched_again(tmp_path: Path) -> None:
    provider = Tally()
    manager = PrefetchManager(provider, workers=2)
    for fetched in manager.run(make_units(tmp_path, 2), shard_size=5):
        first = fetched.pack.get(fetched.keys[1])
        again = manager.fetch_again(fetched, 1)
        assert first is not None
        assert again.values_tchw.tobytes() == first.values_tchw.tobytes()
        manager.release(fetched)
    assert provider.made == 3


def test_failure_when_the_catalogue_has_a_hole_then_its_class_says_so() -> None:
    assert RowFailure.of("fetch", CollectionGapError("2022-01")).error_class == "collection_gap"
