"""The IO side of a run: many requests in flight over the borders of shards, in bounded memory.

Workers take rows, not shards, from one stream, so that a slow row at the end of a shard never
idles the others. Patches go to the unit's pack on disk at once; what is held in memory is only
what is in flight. At most ``max_open_units`` units are open until their consumer releases them.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from rsembed.core.errors import AuthError, QuotaError
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Patch
from rsembed.pipelines.due_queue import DueQueue
from rsembed.pipelines.fetch_unit import FetchedUnit, FetchUnit, PatchPack, RowFailure, SettledRows
from rsembed.pipelines.input_cache import InputCache
from rsembed.pipelines.permits import Permits
from rsembed.pipelines.restrictions import Restrictions
from rsembed.pipelines.retry import RetryPolicy, Tries, call_with_retry
from rsembed.providers.base import ProviderBase
from rsembed.providers.throttle import LocalThrottle, Throttle, throttle_limits

logger = logging.getLogger(__name__)

Listener = Callable[[FetchedUnit, SettledRows, bool], None]
"""Told of each settled request, from the fetching threads, and whether it was the unit's last."""
Fetch = Callable[[FetchRequest], Patch]
STOP_S = 1.0
"""How long :meth:`PrefetchManager.stop` waits for requests in flight."""


@dataclass(frozen=True)
class _Opened:
    """A unit in work, whom to ask for it and whom to tell."""

    state: FetchedUnit
    fetch: Fetch
    retry: RetryPolicy
    throttle: Throttle
    listener: Listener


class _Item(NamedTuple):
    """One request of a unit, the slots it serves and what it has been through."""

    opened: _Opened
    key: str
    request: FetchRequest
    slots: tuple[int, ...]
    tries: Tries


@dataclass(frozen=True)
class _Planned:
    """All units have been opened; there were ``units`` of them."""

    units: int


class PrefetchManager:
    """Fetches units with ``workers`` threads: iterate over :meth:`run` for the settled ones, or :meth:`open` each.

    ``on_settled(n_rows)`` is called from worker threads whenever rows are settled. ``cache``: where patches
    of earlier runs are looked for, and new ones kept.
    """

    def __init__(
        self,
        provider: ProviderBase | None = None,
        *,
        workers: int,
        retry: RetryPolicy | None = None,
        throttle: Throttle | None = None,
        max_open_units: int | None = None,
        on_settled: Callable[[int], None] = lambda _: None,
        cache: InputCache | None = None,
    ) -> None:
        self._fetch_default = None if provider is None else provider.fetch
        self._workers = workers
        self._retry = retry or RetryPolicy()
        limits = throttle_limits("" if provider is None else provider.name)
        self._throttle = throttle or LocalThrottle(limits.cap, limits.per_s)
        self._max_open = max_open_units
        self._on_settled = on_settled
        self._cache = cache
        self._stop = threading.Event()
        self._started = False
        self._threads: list[threading.Thread] = []
        self._restrictions = Restrictions()
        self._items: DueQueue[_Item] = DueQueue()
        self._settled: queue.SimpleQueue[FetchedUnit | _Planned | BaseException] = queue.SimpleQueue()
        self._may_open = threading.Semaphore(0)
        self._open: dict[int, FetchedUnit] = {}

    def run(self, units: Iterator[tuple[FetchUnit, PatchPack]], *, shard_size: int) -> Iterator[FetchedUnit]:
        """Settled units, in the order in which they settle. Call :meth:`release` for each when done with it.

        An error in planning a unit (not in a row) stops the run and is raised here; so does a refused login.
        """
        self._may_open.release(self._max_open or 3 + -(-2 * self._workers // shard_size))
        self._begin(self._plan, "fetch-plan", units)
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
        throttle: Throttle | None = None,
    ) -> FetchedUnit:
        """Begin to fetch what ``pack`` lacks of ``unit``; ``listener`` is told of every request that is settled.

        ``fetch``, ``retry`` and ``throttle`` replace the manager's own for this unit. Rows that the
        pack holds already are settled here and now.
        """
        ask = fetch or self._fetch_default
        if ask is None:
            raise TypeError("a PrefetchManager without a provider needs fetch= for each unit")
        self._start()
        # Rows that ask for the same pixels are one request.
        slots_of: dict[str, list[int]] = {}
        for slot in unit.slots:
            slots_of.setdefault(unit.key(slot), []).append(slot)
        lacking = {key: pack.lacks(key, unit.group.bands) for key in slots_of}
        state = FetchedUnit(unit, pack, {slot: key for key, slots in slots_of.items() for slot in slots})
        state.open = len(slots_of)
        self._open[id(state)] = state
        opened = _Opened(state, ask, retry or self._retry, throttle or self._throttle, listener)
        items: list[_Item] = []
        for key, slots in slots_of.items():
            if lacking[key]:
                # In the group's order, so that a request does not depend on how what is there came about.
                request, wanted = unit.request(slots[0]), unit.group.bands
                if lacking[key] != wanted:
                    request = replace(request, bands=tuple(band for band in wanted if band in lacking[key]))
                items.append(_Item(opened, key, request, tuple(slots), Tries(opened.retry)))
            else:
                self._tell(state, SettledRows(tuple(slots)), listener)
        self._items.put(*items)
        return state

    def release(self, unit: FetchedUnit) -> None:
        """The consumer is done with ``unit``; another may be opened."""
        self._open.pop(id(unit), None)
        unit.pack.close()
        self._may_open.release()

    def stop(self) -> None:
        """Begin no new request; those in flight end by themselves, and are waited for a moment.

        A thread that is inside a library when the interpreter exits may take the process down with it.
        """
        self._stop.set()
        self._may_open.release()
        self._items.close()
        for state in list(self._open.values()):
            state.stop.set()
            state.pack.flush()
        patience = time.monotonic() + STOP_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, patience - time.monotonic()))

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
                self._begin(self._work, f"fetch-{i}")

    def _begin(self, target: Callable[..., None], name: str, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True, name=name)
        self._threads.append(thread)
        thread.start()

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
        if rows.failure is not None and rows.failure.error_class == AuthError.error_class:
            # No fault of the row, and no other would fare better: the run stops, and can be resumed after a login.
            self._settled.put(AuthError(rows.failure.message))
            return
        self._on_settled(len(rows.slots))
        if last:
            self._settled.put(state)

    def _work(self) -> None:
        permits = Permits()
        try:
            while (item := self._next(permits)) is not None:
                if not item.opened.state.stop.is_set():
                    self._fetch(item, permits)
        except BaseException as exc:  # noqa: BLE001 - a thread ends here; the run raises it
            self._settled.put(exc)

    def _next(self, permits: Permits) -> _Item | None:
        """What to fetch next; None at the end. A thread that has to wait for it holds no permit."""
        item = self._items.get(wait=False)
        if item is None:
            permits.drop()
            item = self._items.get()
        return item

    def _fetch(self, item: _Item, permits: Permits) -> None:
        opened, state = item.opened, item.opened.state
        kept = None if self._cache is None else self._cache.get(item.key, item.request)
        if kept is not None:
            permits.drop()
            state.pack.put(item.key, kept)
            self._tell(state, SettledRows(item.slots, None, 0, kept.n_images, cached=True), opened.listener)
            return
        try:
            patch = self._ask(item, permits)
        except Exception as exc:  # a row ends here; what went wrong is recorded with it
            if state.stop.is_set():
                return
            rows = SettledRows(item.slots, RowFailure.of("fetch", exc))
            logger.debug("fetch_failed", extra={"shard": state.unit.index, "slot": item.slots[0]}, exc_info=exc)
        else:
            if patch is None:
                return
            counted = patch.provenance.get("requests", 1)
            self._restrictions.heed(opened.throttle, patch)
            state.pack.put(item.key, patch)
            if self._cache is not None:
                self._cache.put(item.key, item.request, patch)
            rows = SettledRows(item.slots, None, counted if isinstance(counted, int) else 1, patch.n_images)
        self._tell(state, rows, opened.listener)

    def _ask(self, item: _Item, permits: Permits) -> Patch | None:
        """The answer to a request; None when it is put off. Raises the error that stays, or that came before a stop."""
        opened, stop = item.opened, item.opened.state.stop
        while True:
            try:
                return permits.ask(opened.throttle, stop, lambda: opened.fetch(item.request))
            except Exception as exc:  # what may not be asked again is raised as it is
                wait_s = None if stop.is_set() else item.tries.wait_s(exc)
                if wait_s is None:
                    raise
                # A refusal is how the throttle learns, so others go on meanwhile: but only so many, lest a source that
                # refuses everything be asked for row after row. Other errors may well be an outage.
                if isinstance(exc, QuotaError) and self._items.put_off(item, wait_s, at_most=self._workers):
                    return None
                if stop.wait(wait_s):
                    raise

    def _tell(self, state: FetchedUnit, rows: SettledRows, listener: Listener) -> None:
        last = state.settle(rows)
        if last:
            state.pack.flush()
        listener(state, rows, last)
