"""The IO side of a run: many requests in flight over the borders of shards, in bounded memory.

Workers take rows, not shards, from one stream, so that a slow row at the end of a shard never
idles the others. Patches go to the unit's pack on disk at once; what is held in memory is only
what is in flight. At most ``max_open_units`` units are open until their consumer releases them.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from rsembed.core.errors import classify
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Patch
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.plan import FetchGroup, Ints, request_key
from rsembed.pipelines.retry import RetryPolicy, call_with_retry
from rsembed.pipelines.rows.table import RowShard
from rsembed.providers.base import ProviderBase
from rsembed.tools.spatial import GridArray
from rsembed.tools.tiling import Footprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowFailure:
    """Why a row gave nothing: ``stage`` is ``fetch`` or ``infer``."""

    stage: str
    error_class: str
    message: str

    @classmethod
    def of(cls, stage: str, error: BaseException) -> RowFailure:
        """From an exception; the message is kept short and can be written anywhere (names of files may be no UTF-8)."""
        text = f"{type(error).__name__}: {error}"[:2000]
        return cls(stage, classify(error), text.encode("utf-8", "backslashreplace").decode())


@dataclass(frozen=True)
class FetchUnit:
    """A shard of one fetch group: the unit of fetching. ``index``: number of the shard.

    ``wanted``: label -> positions in the shard that this model lacks (all, or those to be
    retried); models that lack nothing are left out.
    """

    group: FetchGroup
    index: int
    shard: RowShard
    wanted: Mapping[str, tuple[int, ...]]
    group_digest: str
    buffer_m: float | None

    @cached_property
    def slots(self) -> tuple[int, ...]:
        """Positions that some model lacks, in order."""
        return tuple(sorted(set().union(*self.wanted.values())))

    @cached_property
    def asked(self) -> Mapping[str, tuple[Ints, Ints]]:
        """Label -> ``(height, width)`` in pixels asked of that model, shape (N,)."""
        return {m.label: self.group.asked_pixels(self.shard, m, self.buffer_m) for m in self.group.models}

    @cached_property
    def footprints(self) -> Mapping[str, tuple[Footprint, ...]]:
        """Label -> how each row meets that model."""
        return {
            model.label: tuple(
                model.footprint(h, w) for h, w in zip(*(a.tolist() for a in self.asked[model.label]), strict=True)
            )
            for model in self.group.models
        }

    @cached_property
    def grids(self) -> GridArray:
        """What is fetched for each row: the largest footprint among the group's models."""
        heights = np.max([[f.fetch_height for f in prints] for prints in self.footprints.values()], axis=0)
        widths = np.max([[f.fetch_width for f in prints] for prints in self.footprints.values()], axis=0)
        return self.group.grids(self.shard, heights, widths)

    def request(self, slot: int) -> FetchRequest:
        """The provider request of one row."""
        group = self.group
        return FetchRequest(group.recipe, group.bands, self.grids[slot], group.bins(self.shard.window(slot)))


@dataclass
class FetchedUnit:
    """A unit whose rows are all settled: each is in ``pack`` or in ``failures``.

    ``keys``: slot -> key in the pack. ``requests``: provider requests made, ``fetched``: patches
    they gave. ``open``: requests that are not settled yet.
    """

    unit: FetchUnit
    pack: InputPack
    keys: dict[int, str]
    failures: dict[int, RowFailure] = field(default_factory=dict)
    requests: int = 0
    fetched: int = 0
    open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, slots: tuple[int, ...], failure: RowFailure | None, requests: int) -> bool:
        """Record the outcome of one request; True when it was the unit's last."""
        with self._lock:
            self.requests += requests
            self.fetched += failure is None
            if failure is not None:
                for slot in slots:
                    self.failures[slot] = failure
            self.open -= 1
            return self.open == 0


@dataclass(frozen=True)
class _Item:
    """One request and the slots it serves."""

    state: FetchedUnit
    key: str
    request: FetchRequest
    slots: tuple[int, ...]


@dataclass(frozen=True)
class _Planned:
    """All units have been opened; there were ``units`` of them."""

    units: int


class PrefetchManager:
    """Fetches units with ``workers`` threads; iterate over :meth:`run` for the settled ones.

    ``on_settled(n_rows)`` is called from worker threads whenever rows are settled.
    """

    def __init__(
        self,
        provider: ProviderBase,
        *,
        workers: int,
        retry: RetryPolicy | None = None,
        max_open_units: int | None = None,
        on_settled: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._provider = provider
        self._workers = workers
        self._retry = retry or RetryPolicy()
        self._max_open = max_open_units
        self._on_settled = on_settled
        self._stop = threading.Event()
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._settled: queue.SimpleQueue[FetchedUnit | _Planned | BaseException] = queue.SimpleQueue()
        self._may_open = threading.Semaphore(0)
        self._packs: dict[Path, InputPack] = {}

    def run(self, units: Iterator[tuple[FetchUnit, InputPack]], *, shard_size: int) -> Iterator[FetchedUnit]:
        """Settled units, in the order in which they settle. Call :meth:`release` for each when done with it.

        An error in planning a unit (not in a row) stops the run and is raised here.
        """
        self._may_open.release(self._max_open or 3 + -(-2 * self._workers // shard_size))
        threads = [threading.Thread(target=self._plan, args=(units,), daemon=True, name="fetch-plan")]
        threads += [threading.Thread(target=self._work, daemon=True, name=f"fetch-{i}") for i in range(self._workers)]
        for thread in threads:
            thread.start()
        delivered, expected = 0, None
        try:
            while delivered != expected:
                settled = self._settled.get()
                if isinstance(settled, BaseException):
                    raise settled
                if isinstance(settled, _Planned):
                    expected = settled.units
                else:
                    delivered += 1
                    yield settled
        finally:
            self.stop()

    def release(self, unit: FetchedUnit) -> None:
        """The consumer is done with ``unit``; another may be opened."""
        self._packs.pop(unit.pack.path, None)
        unit.pack.close()
        self._may_open.release()

    def stop(self) -> None:
        """Begin no new request; those in flight end by themselves."""
        self._stop.set()
        self._may_open.release()
        for _ in range(self._workers):
            self._items.put(None)
        for pack in list(self._packs.values()):
            pack.flush()

    def fetch_again(self, fetched: FetchedUnit, slot: int) -> Patch:
        """The patch of a row whose stored input is missing or damaged; raises what the provider raises."""
        logger.warning("input_lost", extra={"shard": fetched.unit.index, "slot": slot})
        request = fetched.unit.request(slot)
        patch = call_with_retry(lambda: self._provider.fetch(request), self._retry, self._stop)
        fetched.pack.put(fetched.keys[slot], patch)
        return patch

    def _plan(self, units: Iterator[tuple[FetchUnit, InputPack]]) -> None:
        """Turn units into requests, as far ahead as open units allow (one thread)."""
        count = 0
        try:
            while True:
                self._may_open.acquire()
                if self._stop.is_set():
                    return
                opened = next(units, None)
                if opened is None:
                    self._settled.put(_Planned(count))
                    return
                count += 1
                self._open_unit(*opened)
        except BaseException as exc:  # noqa: BLE001 - a thread ends here; the run raises it
            self._settled.put(exc)

    def _open_unit(self, unit: FetchUnit, pack: InputPack) -> None:
        self._packs[pack.path] = pack
        # Rows that ask for the same pixels are one request.
        slots_of: dict[str, list[int]] = {}
        requests: dict[str, FetchRequest] = {}
        for slot in unit.slots:
            request = unit.request(slot)
            key = request_key(unit.group_digest, request)
            slots_of.setdefault(key, []).append(slot)
            requests[key] = request
        missing = [key for key in slots_of if key not in pack]
        keys = {slot: key for key, slots in slots_of.items() for slot in slots}
        state = FetchedUnit(unit, pack, keys, open=len(missing))
        stored = len(unit.slots) - sum(len(slots_of[key]) for key in missing)
        if stored:
            self._on_settled(stored)
        if not missing:
            self._settled.put(state)
        for key in missing:
            self._items.put(_Item(state, key, requests[key], tuple(slots_of[key])))

    def _work(self) -> None:
        try:
            while (item := self._items.get()) is not None and not self._stop.is_set():
                self._fetch(item)
        except BaseException as exc:  # noqa: BLE001 - a thread ends here; the run raises it
            self._settled.put(exc)

    def _fetch(self, item: _Item) -> None:
        state, slots = item.state, item.slots
        failure, requests = None, 0
        try:
            patch = call_with_retry(lambda: self._provider.fetch(item.request), self._retry, self._stop)
            counted = patch.provenance.get("requests", 1)
            requests = counted if isinstance(counted, int) else 1
        except Exception as exc:  # a row ends here; what went wrong is recorded with it
            if self._stop.is_set():
                return
            failure = RowFailure.of("fetch", exc)
            logger.debug("fetch_failed", extra={"shard": state.unit.index, "slot": slots[0]}, exc_info=exc)
        else:
            state.pack.put(item.key, patch)
        self._on_settled(len(slots))
        if state.settle(slots, failure, requests):
            state.pack.flush()
            self._settled.put(state)
