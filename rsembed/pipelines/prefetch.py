"""The IO side of a run: many requests in flight over the borders of shards, in bounded memory.

Workers take rows, not shards, from one stream, so that a slow row at the end of a shard never
idles the others. Patches go to the unit's pack on disk at once; what is held in memory is only
what is in flight. At most ``max_open_units`` units are open until their consumer releases them.
"""

from __future__ import annotations

import logging
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from rsembed.core.errors import classify
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Patch
from rsembed.pipelines.plan import FetchGroup, Ints, request_key
from rsembed.pipelines.retry import RetryPolicy, call_with_retry
from rsembed.pipelines.rows.table import RowShard
from rsembed.providers.base import ProviderBase
from rsembed.tools.spatial import GridArray
from rsembed.tools.tiling import Footprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowFailure:
    """Why a row gave nothing: ``stage`` is ``fetch`` or ``infer``; ``trace``: where it was raised."""

    stage: str
    error_class: str
    message: str
    trace: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, stage: str, error: BaseException) -> RowFailure:
        """From an exception; the message is kept short and can be written anywhere (names of files may be no UTF-8)."""
        text = f"{type(error).__name__}: {error}"[:2000]
        trace = "".join(traceback.format_exception(error))[-8000:]
        return cls(stage, classify(error), _writable(text), _writable(trace))


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


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


class PatchPack(Protocol):
    """Where the patches of one unit go, and are found again; safe to use from several threads."""

    def lacks(self, key: str, bands: tuple[str, ...]) -> tuple[str, ...]:
        """Those of ``bands`` that are not there under ``key``."""
        ...

    def put(self, key: str, patch: Patch) -> None:
        """Keep ``patch`` under ``key``."""
        ...

    def get(self, key: str) -> Patch | None:
        """The patch under ``key``; None when it is absent or damaged."""
        ...

    def flush(self) -> None:
        """Make everything that was put survive this process."""
        ...

    def close(self) -> None:
        """Release files; what was kept stays."""
        ...


@dataclass(frozen=True)
class SettledRows:
    """The outcome of one request: the slots it serves, why it failed (None: its patch is in the pack), its cost.

    ``n_images`` is None where the patch was there before.
    """

    slots: tuple[int, ...]
    failure: RowFailure | None = None
    requests: int = 0
    n_images: int | None = None


@dataclass
class FetchedUnit:
    """A unit whose rows are settled one by one: each ends up in ``pack`` or in ``failures``.

    ``keys``: slot -> key in the pack. ``requests``: provider requests made, ``fetched``: patches
    they gave. ``open``: requests that are not settled yet. ``stop``: set it to begin no further
    request of this unit; what is in flight is then not recorded.
    """

    unit: FetchUnit
    pack: PatchPack
    keys: dict[int, str]
    failures: dict[int, RowFailure] = field(default_factory=dict)
    requests: int = 0
    fetched: int = 0
    open: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, rows: SettledRows) -> bool:
        """Record the outcome of one request; True when it was the unit's last."""
        with self._lock:
            self.requests += rows.requests
            self.fetched += rows.failure is None
            if rows.failure is not None:
                for slot in rows.slots:
                    self.failures[slot] = rows.failure
            self.open -= 1
            return self.open == 0


Listener = Callable[[FetchedUnit, SettledRows, bool], None]
"""Told of each settled request, from the fetching threads, and whether it was the unit's last."""
Fetch = Callable[[FetchRequest], Patch]


@dataclass(frozen=True)
class _Item:
    """One request, the slots it serves, and whom to ask and to tell."""

    state: FetchedUnit
    key: str
    request: FetchRequest
    slots: tuple[int, ...]
    fetch: Fetch
    retry: RetryPolicy
    listener: Listener


@dataclass(frozen=True)
class _Planned:
    """All units have been opened; there were ``units`` of them."""

    units: int


class PrefetchManager:
    """Fetches units with ``workers`` threads: iterate over :meth:`run` for the settled ones, or :meth:`open` single ones.

    ``on_settled(n_rows)`` is called from worker threads whenever rows are settled.
    """

    def __init__(
        self,
        provider: ProviderBase | None = None,
        *,
        workers: int,
        retry: RetryPolicy | None = None,
        max_open_units: int | None = None,
        on_settled: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._fetch_default = None if provider is None else provider.fetch
        self._workers = workers
        self._retry = retry or RetryPolicy()
        self._max_open = max_open_units
        self._on_settled = on_settled
        self._stop = threading.Event()
        self._started = False
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._settled: queue.SimpleQueue[FetchedUnit | _Planned | BaseException] = queue.SimpleQueue()
        self._may_open = threading.Semaphore(0)
        self._open: dict[int, FetchedUnit] = {}

    def run(self, units: Iterator[tuple[FetchUnit, PatchPack]], *, shard_size: int) -> Iterator[FetchedUnit]:
        """Settled units, in the order in which they settle. Call :meth:`release` for each when done with it.

        An error in planning a unit (not in a row) stops the run and is raised here.
        """
        self._may_open.release(self._max_open or 3 + -(-2 * self._workers // shard_size))
        threading.Thread(target=self._plan, args=(units,), daemon=True, name="fetch-plan").start()
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

    def open(
        self,
        unit: FetchUnit,
        pack: PatchPack,
        listener: Listener,
        *,
        fetch: Fetch | None = None,
        retry: RetryPolicy | None = None,
    ) -> FetchedUnit:
        """Begin to fetch what ``pack`` lacks of ``unit``; ``listener`` is told of every request that is settled.

        ``fetch`` and ``retry`` replace the manager's own for this unit. Rows that the pack holds
        already are settled here and now.
        """
        ask = fetch or self._fetch_default
        if ask is None:
            raise TypeError("a PrefetchManager without a provider needs fetch= for each unit")
        self._start()
        # Rows that ask for the same pixels are one request.
        slots_of: dict[str, list[int]] = {}
        requests: dict[str, FetchRequest] = {}
        for slot in unit.slots:
            request = unit.request(slot)
            key = request_key(unit.group_digest, request)
            slots_of.setdefault(key, []).append(slot)
            requests[key] = request
        lacking = {key: pack.lacks(key, unit.group.bands) for key in slots_of}
        state = FetchedUnit(unit, pack, {slot: key for key, slots in slots_of.items() for slot in slots})
        state.open = len(slots_of)
        self._open[id(state)] = state
        for key, slots in slots_of.items():
            if lacking[key]:
                # In the group's order, so that a request does not depend on how what is there came about.
                bands = tuple(band for band in unit.group.bands if band in lacking[key])
                request = requests[key] if bands == unit.group.bands else replace(requests[key], bands=bands)
                self._items.put(_Item(state, key, request, tuple(slots), ask, retry or self._retry, listener))
            else:
                self._tell(state, SettledRows(tuple(slots)), listener)
        return state

    def release(self, unit: FetchedUnit) -> None:
        """The consumer is done with ``unit``; another may be opened."""
        self._open.pop(id(unit), None)
        unit.pack.close()
        self._may_open.release()

    def stop(self) -> None:
        """Begin no new request; those in flight end by themselves."""
        self._stop.set()
        self._may_open.release()
        for _ in range(self._workers):
            self._items.put(None)
        for state in list(self._open.values()):
            state.stop.set()
            state.pack.flush()

    def fetch_again(self, fetched: FetchedUnit, slot: int) -> Patch:
        """The patch of a row whose stored input is missing or damaged; raises what the provider raises."""
        logger.warning("input_lost", extra={"shard": fetched.unit.index, "slot": slot})
        if self._fetch_default is None:
            raise TypeError("a PrefetchManager without a provider cannot fetch again")
        fetch, request = self._fetch_default, fetched.unit.request(slot)
        patch = call_with_retry(lambda: fetch(request), self._retry, self._stop)
        fetched.pack.put(fetched.keys[slot], patch)
        return patch

    def _start(self) -> None:
        if not self._started:
            self._started = True
            for i in range(self._workers):
                threading.Thread(target=self._work, daemon=True, name=f"fetch-{i}").start()

    def _plan(self, units: Iterator[tuple[FetchUnit, PatchPack]]) -> None:
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
                unit, pack = opened
                self.open(unit, pack, self._deliver)
        except BaseException as exc:  # noqa: BLE001 - a thread ends here; the run raises it
            self._settled.put(exc)

    def _deliver(self, state: FetchedUnit, rows: SettledRows, last: bool) -> None:
        """The listener of :meth:`run`: hand the unit over with its last row."""
        self._on_settled(len(rows.slots))
        if last:
            self._settled.put(state)

    def _work(self) -> None:
        try:
            while (item := self._items.get()) is not None and not self._stop.is_set():
                if not item.state.stop.is_set():
                    self._fetch(item)
        except BaseException as exc:  # noqa: BLE001 - a thread ends here; the run raises it
            self._settled.put(exc)

    def _fetch(self, item: _Item) -> None:
        state = item.state
        try:
            patch = call_with_retry(lambda: item.fetch(item.request), item.retry, state.stop)
        except Exception as exc:  # a row ends here; what went wrong is recorded with it
            if state.stop.is_set():
                return
            rows = SettledRows(item.slots, RowFailure.of("fetch", exc))
            logger.debug("fetch_failed", extra={"shard": state.unit.index, "slot": item.slots[0]}, exc_info=exc)
        else:
            counted = patch.provenance.get("requests", 1)
            state.pack.put(item.key, patch)
            rows = SettledRows(item.slots, None, counted if isinstance(counted, int) else 1, patch.n_images)
        self._tell(state, rows, item.listener)

    def _tell(self, state: FetchedUnit, rows: SettledRows, listener: Listener) -> None:
        last = state.settle(rows)
        if last:
            state.pack.flush()
        listener(state, rows, last)
