"""What a ticket of the queue ``io`` does: claim a fetch unit, fetch its rows, settle each as it comes.

The threads that fetch belong to one :class:`PrefetchManager` of the process; tickets only feed it
and settle. Patches are in the input store before the ledger hears that their rows are done, and
both happen about once a second, so that a worker that dies loses little and repeats little.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Sequence
from typing import Literal

from rsembed.core.errors import AuthError, RSEmbedError, StoreError, StoreFullError
from rsembed.core.patch import Patch
from rsembed.core.settings import Settings
from rsembed.pipelines.fetch_unit import FetchedUnit, RowFailure, SettledRows
from rsembed.pipelines.input_record import encode
from rsembed.pipelines.prefetch import PrefetchManager
from rsembed.pipelines.retry import RetryPolicy
from rsembed.pipelines.rows.shard import RowShard
from rsembed.providers.throttle import throttle_limits
from workers import suspects
from workers.hold import Hold
from workers.inputs import InputStore, UnitInputs
from workers.ledger.records import ClaimedUnit, FailureDetail, RowOutcome
from workers.ledger.repository import Ledger
from workers.loaded_run import LoadedRun, RunCache
from workers.permits import RedisThrottle
from workers.process import WorkerProcess
from workers.report import WorkReport
from workers.service import wait_until_alone
from workers.settings import FleetSettings

logger = logging.getLogger(__name__)

SETTLE_S = 1.0
"""Between two settlements of a unit in work."""
SUSPECT_STEP = 16
"""Rows of a suspect unit that are fetched together, before they are tried one by one."""
MOST_UNITS = 8
"""Units that one process holds at a time; the threads of its pool are fewer."""
_LOOK_S = 0.1
"""Between two looks at the stop flag of a unit whose rows are under way."""
FULL_PAUSE_S = 5.0
"""How long a unit waits when the input store has no space."""


class SegmentPack:
    """The pack of a unit in work: what the store had, and what was fetched since the last :meth:`drain`."""

    def __init__(self, stored: UnitInputs) -> None:
        self._stored = stored
        self._lock = threading.Lock()
        self._fresh: list[bytes] = []

    def lacks(self, key: str, bands: tuple[str, ...]) -> tuple[str, ...]:
        """See PatchPack; asked once, before anything is put."""
        return tuple(self._stored.lacks(key, bands))

    def put(self, key: str, patch: Patch) -> None:
        """See PatchPack."""
        record, _ = encode(key, patch)
        with self._lock:
            self._fresh.append(record)

    def get(self, key: str) -> Patch | None:
        """See PatchPack; a unit is only read again by inference, out of the store."""
        return None

    def flush(self) -> None:
        """See PatchPack; whoever settles rows drains first."""

    def close(self) -> None:
        """See PatchPack."""
        self._stored.close()

    def drain(self) -> bytes:
        """The records of everything put since the last call."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
        return b"".join(fresh)


class _Settling:
    """Outcomes of one step on their way to the ledger; told by fetching threads, taken by the ticket's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[SettledRows] = []
        self.ended = threading.Event()

    def hear(self, _unit: FetchedUnit, rows: SettledRows, last: bool) -> None:
        """The listener of the prefetch manager."""
        with self._lock:
            self._rows.append(rows)
        if last:
            self.ended.set()

    def take(self) -> list[SettledRows]:
        """What was heard since the last call."""
        with self._lock:
            rows, self._rows = self._rows, []
        return rows


class _Throttles:
    """One throttle for each source of imagery, shared with every other IO worker of the fleet.

    ``lease_s``: how long a permit outlives its process, and a throttle that Redis forgot waits.
    """

    def __init__(self, redis_url: str, lease_s: float, settings: Settings) -> None:
        self._redis_url = redis_url
        self._lease_s = lease_s
        self._settings = settings
        self._lock = threading.Lock()
        self._throttles: dict[str, RedisThrottle] = {}

    def of(self, loaded: LoadedRun) -> RedisThrottle:
        """The throttle of the run's source."""
        key, limits = loaded.throttle_key, throttle_limits(loaded.spec.provider.backend, self._settings.throttle)
        with self._lock:
            if key not in self._throttles:
                self._throttles[key] = RedisThrottle(self._redis_url, key, limits.cap, limits.per_s, self._lease_s)
            return self._throttles[key]


class FetchService:
    """Fetches units for this process; :meth:`work_once` serves one ticket and may run in several threads."""

    def __init__(self, process: WorkerProcess, ledger: Ledger, settings: FleetSettings) -> None:
        self.process = process
        self.ledger = ledger
        self.inputs = InputStore(settings.need_inputs(), settings.scratch)
        own = Settings.from_environment()
        self.runs = RunCache(ledger, own, settings.scratch)
        self.prefetch = PrefetchManager(workers=settings.fetch_threads)
        # A short one: what it costs to be wrong about who holds permits is a few requests too many.
        self.throttles = _Throttles(settings.need_redis_url(), settings.lease_s / 4, own)

    def work_once(self) -> WorkReport:
        """Claim a unit, fetch it, settle it; idle when the ledger has none for this worker."""
        process = self.process
        # A suspect is taken whatever else is in work, and waits below until that has ended.
        hold = process.claim(
            lambda _alone: self.ledger.claim_unit(process.id, process.lease_s, process.deadline_s, alone=True),
            limit=MOST_UNITS,
        )
        if hold is None:
            return WorkReport.nothing("fetch")
        with hold:
            return _UnitWork(self, hold).run()


class _UnitWork:
    """One claimed unit."""

    def __init__(self, service: FetchService, hold: Hold[ClaimedUnit]) -> None:
        self._service = service
        self._ledger = service.ledger
        self._hold = hold
        self._claimed = hold.claimed
        self._done = self._failed = self._segments = 0
        self._open_rows = 0

    def run(self) -> WorkReport:
        """Do it; whatever goes wrong beyond single rows gives the unit back and says so where it belongs."""
        claimed, ledger = self._claimed, self._ledger
        try:
            loaded = self._service.runs.get(claimed.run)
            self._fetch(loaded)
            if self._open_rows and not self._hold.should_stop():
                # Somebody asked for more of this unit's rows meanwhile.
                ledger.release_unit(claimed.token)
        except StoreFullError as exc:
            # Back-pressure, not an error: what lies in the store is being embedded and cleaned up.
            logger.info("inputs_full", extra={"run": claimed.run, "shard": claimed.shard})
            ledger.release_unit(claimed.token, not_before_s=FULL_PAUSE_S, error=str(exc))
        except (StoreError, AuthError) as exc:
            ledger.release_unit(claimed.token, error=str(exc))
            ledger.block(claimed.run, str(exc))
        except RSEmbedError as exc:
            # This code or this machine cannot do what was submitted, or a server is away.
            ledger.release_unit(claimed.token, not_before_s=FULL_PAUSE_S, error=str(exc))
            if not exc.transient:
                ledger.block(claimed.run, str(exc))
        return self._report()

    def _report(self) -> WorkReport:
        claimed = self._claimed
        n = claimed.n_rows if claimed.wanted is None else len(claimed.wanted)
        left = max(0, n - len(claimed.settled) - self._done - self._failed)
        return WorkReport(claimed.run, "fetch", claimed.shard, None, self._done, self._failed, left)

    def _fetch(self, loaded: LoadedRun) -> None:
        claimed, hold = self._claimed, self._hold
        rows = loaded.rows(self._ledger, claimed.shard)
        wanted = range(claimed.n_rows) if claimed.wanted is None else claimed.wanted
        slots = [slot for slot in wanted if slot not in claimed.settled]
        if not hold.alone:
            self._step(loaded, rows, slots)
            return
        if not wait_until_alone(self._service.process, hold):
            self._ledger.release_unit(claimed.token)
            return
        marks = suspects.fold(claimed.marks)
        guilty = [slot for slot in slots if slot in suspects.condemned(marks)]
        if guilty:
            self._condemn(rows, guilty, suspects.error_class(marks))
        for step in suspects.steps(marks, slots, SUSPECT_STEP):
            if not hold.mark(suspects.about_to_run(marks, step)) or not self._step(loaded, rows, step):
                return
        hold.mark(suspects.about_to_run(marks, ()))

    def _condemn(self, rows: RowShard, slots: Sequence[int], error_class: str) -> None:
        message = f"fetching this row ended its process {suspects.DEATHS} times; it is left out"
        failure = RowFailure("fetch", error_class, message)
        self._settle(rows, [SettledRows((slot,), failure) for slot in slots], b"", "")

    def _step(self, loaded: LoadedRun, rows: RowShard, slots: Sequence[int]) -> bool:
        """Fetch and settle ``slots``; False when the unit was given back before the end."""
        if not slots:
            return True
        claimed, hold = self._claimed, self._hold
        key = loaded.input_key(claimed.group, claimed.shard)
        group = loaded.group(claimed.group)
        pack, heard = SegmentPack(self._service.inputs.open_unit(key)), _Settling()
        unit = loaded.unit(group, rows, slots)
        # Quota says nothing about a row, so no row fails for it: it waits until the hold has to stop.
        retry = RetryPolicy(loaded.plan.config.max_attempts, max_quota_waits=sys.maxsize)
        throttle = self._service.throttles.of(loaded)
        state = self._service.prefetch.open(
            unit, pack, heard.hear, fetch=loaded.provider.fetch, retry=retry, throttle=throttle
        )
        try:
            while True:
                ended = _wait_any(heard.ended, hold.stopping, SETTLE_S)
                fetched = heard.take()
                auth = next((r.failure for r in fetched if r.failure and r.failure.error_class == "auth"), None)
                kept = [r for r in fetched if r.failure is None or r.failure.error_class != "auth"]
                if kept and not hold.lost and not self._settle(rows, kept, pack.drain(), key):
                    return False
                if auth is not None:
                    raise AuthError(auth.message)
                if hold.should_stop():
                    self._ledger.release_unit(claimed.token)
                    return False
                if ended and not fetched:
                    return True
        finally:
            state.stop.set()
            self._service.prefetch.release(state)

    def _settle(self, rows: RowShard, settled: Sequence[SettledRows], records: bytes, key: str) -> bool:
        """Store ``records``, then tell the ledger; False when the unit is no longer ours."""
        claimed = self._claimed
        stored = 0
        if records:
            self._segments += 1
            stored = self._service.inputs.write_segment(key, f"{claimed.token}-{self._segments:04d}", records)
        ids = rows.ids.to_pylist()
        outcomes = [_outcome(rows, ids[slot], slot, each) for each in settled for slot in each.slots]
        requests = sum(each.requests for each in settled)
        answer = self._ledger.settle_rows(claimed.token, outcomes, requests=requests, stored_bytes=stored)
        failed = sum(outcome.state == "failed" for outcome in outcomes)
        self._open_rows = answer.open_rows
        if answer.kept:
            self._failed += failed
            self._done += len(outcomes) - failed
        return answer.kept


def _wait_any(ended: threading.Event, stopping: threading.Event, timeout_s: float) -> bool:
    """Wait until the step has ended, the hold is to stop, or the time is over; True when it has ended."""
    until = time.monotonic() + timeout_s
    while not ended.wait(_LOOK_S) and not stopping.is_set() and time.monotonic() < until:
        pass
    return ended.is_set()


def _outcome(rows: RowShard, row_id: str, slot: int, settled: SettledRows) -> RowOutcome:
    failure = settled.failure
    detail = None
    if failure is not None:
        detail = FailureDetail("fetch", failure.error_class, failure.message, failure.trace or None)
    state: Literal["done", "no_data", "failed"] = "no_data" if settled.n_images == 0 else "done"
    if failure is not None:
        state = "failed"
    return RowOutcome(slot, int(rows.seq[slot]), int(rows.row[slot]), row_id, state, detail)
