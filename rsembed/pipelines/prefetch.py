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

import numpy as np

from rsembed.core.errors import classify
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Patch
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.plan import FetchGroup, Ints, request_key
from rsembed.pipelines.retry import RetryPolicy, call_with_retry
from rsembed.pipelines.rows import RowShard
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
        """From an exception; the message is kept short."""
        return cls(stage, classify(error), f"{type(error).__name__}: {error}"[:2000])


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

    def key(self, slot: int) -> str:
        """Key of that row's patch in the pack; equal requests have equal keys."""
        return request_key(self.group_digest, self.request(slot))


@dataclass
class FetchedUnit:
    """A unit whose rows are all settled: each is in ``pack`` or in ``failures``."""

    unit: FetchUnit
    pack: InputPack
    keys: dict[int, str]
    failures: dict[int, RowFailure] = field(default_factory=dict)
    requests: int = 0
    fetched: int = 0
    _open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, slots: tuple[int, ...], failure: RowFailure | None, requests: int) -> bool:
        """Record the outcome of one request; True when it was the unit's last."""
        with self._lock:
            self.requests += requests
            self.fetched += failure is None
            if failure is not None:
                for slot in slots:
                    self.failures[slot] = failure
            self._open -= 1
            return self._open == 0


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
        self._source_lock = threading.Lock()
        self._settled: queue.SimpleQueue[FetchedUnit | BaseException | None] = queue.SimpleQueue()

    def run(self, units: Iterator[tuple[FetchUnit, InputPack]], *, shard_size: int) -> Iterator[FetchedUnit]:
        """Settled units, in the order in which they settle. Call :meth:`release` for each when done with it.

        An error in planning a unit (not in a row) stops the run and is raised here.
        """
        limit = self._max_open or 3 + -(-2 * self._workers // shard_size)
        self._slots_open = threading.Semaphore(limit)
        self._items = self._work_items(units)
        threads = [threading.Thread(target=self._work, daemon=True, name=f"fetch-{i}") for i in range(self._workers)]
        for thread in threads:
            thread.start()
        running = len(threads)
        try:
            while running:
                settled = self._settled.get()
                if settled is None:
                    running -= 1
                elif isinstance(settled, BaseException):
                    raise settled
                else:
                    yield settled
        finally:
            self.stop()

    def release(self, unit: FetchedUnit) -> None:
        """The consumer is done with ``unit``; another may be opened."""
        unit.pack.close()
        self._slots_open.release()

    def stop(self) -> None:
        """Begin no new request; those in flight end by themselves."""
        self._stop.set()
        if hasattr(self, "_slots_open"):
            self._slots_open.release()

    def fetch_again(self, fetched: FetchedUnit, slot: int) -> Patch:
        """The patch of a row whose stored input is missing or damaged; raises what the provider raises."""
        logger.warning("input_lost", extra={"shard": fetched.unit.index, "slot": slot})
        request = fetched.unit.request(slot)
        patch = call_with_retry(lambda: self._provider.fetch(request), self._retry, self._stop)
        fetched.pack.put(fetched.keys[slot], patch)
        return patch

    def _work_items(
        self, units: Iterator[tuple[FetchUnit, InputPack]]
    ) -> Iterator[tuple[FetchedUnit, str, tuple[int, ...]]]:
        while True:
            self._slots_open.acquire()
            if self._stop.is_set():
                return
            try:
                unit, pack = next(units)
            except StopIteration:
                return
            slots_of: dict[str, list[int]] = {}
            for slot in unit.slots:
                slots_of.setdefault(unit.key(slot), []).append(slot)
            state = FetchedUnit(unit, pack, {slot: key for key, slots in slots_of.items() for slot in slots})
            wanted = [(key, tuple(slots)) for key, slots in slots_of.items() if key not in pack]
            stored = len(unit.slots) - sum(len(slots) for _, slots in wanted)
            if stored:
                self._on_settled(stored)
            state._open = len(wanted)
            if not wanted:
                self._settled.put(state)
            for key, slots in wanted:
                yield state, key, slots

    def _next_item(self) -> tuple[FetchedUnit, str, tuple[int, ...]] | None:
        with self._source_lock:
            return None if self._stop.is_set() else next(self._items, None)

    def _work(self) -> None:
        try:
            while (item := self._next_item()) is not None:
                self._fetch(*item)
        except BaseException as exc:  # noqa: BLE001 - a worker thread ends here; the run raises it
            self._settled.put(exc)
        else:
            self._settled.put(None)

    def _fetch(self, state: FetchedUnit, key: str, slots: tuple[int, ...]) -> None:
        failure, requests = None, 0
        request = state.unit.request(slots[0])
        try:
            patch = call_with_retry(lambda: self._provider.fetch(request), self._retry, self._stop)
            counted = patch.provenance.get("requests", 1)
            requests = counted if isinstance(counted, int) else 1
        except Exception as exc:  # noqa: BLE001 - a row ends here; what went wrong is recorded with it
            if self._stop.is_set():
                return
            failure = RowFailure.of("fetch", exc)
            logger.debug("fetch_failed", extra={"shard": state.unit.index, "slot": slots[0]}, exc_info=exc)
        else:
            state.pack.put(key, patch)
        self._on_settled(len(slots))
        if state.settle(slots, failure, requests):
            self._settled.put(state)
