"""One worker process as the ledger sees it: identity, heartbeat, leases, stop flag, memory.

Two daemon threads: `beat` renews every lease of the process with one statement; `watch` looks
at clocks and memory only, so that a database that hangs cannot keep it from letting go of work.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from workers.degraded import DegradedModels
from workers.hold import Hold, Leased
from workers.ledger.errors import LedgerError, LedgerUnavailableError
from workers.ledger.records import ClaimedShard, ClaimedUnit, HeartbeatAnswer, Marks, RunState, WorkerInfo
from workers.memory import note_memory, rss_bytes

logger = logging.getLogger(__name__)

EXIT_STUCK = 70
EXIT_MEMORY = 137
"""As if the kernel had killed it: both ends of a worker that uses too much memory look the same."""
GRACE_S = 25.0
"""From the stop flag, or a deadline, to leaving with threads that do not come back."""
_TICK_S = 0.2


class WorkerLedger(Protocol):
    """What of the ledger a process needs for itself."""

    def register(self, info: WorkerInfo) -> None: ...
    def heartbeat(
        self, worker_id: str, tokens: tuple[str, ...], *, lease_s: float, rss_bytes: int, claims: int
    ) -> HeartbeatAnswer: ...
    def degrade(self, worker_id: str, model: str, reason: str | None) -> None: ...
    def mark_unit(self, token: str, marks: Marks) -> bool: ...
    def mark_shard(self, token: str, marks: Marks) -> bool: ...
    def retire(self, worker_id: str) -> None: ...


C = TypeVar("C", bound=Leased)


class WorkerProcess:
    """Identity, leases and limits of this process. Times in seconds, by the monotonic ``clock``.

    ``stop`` is set once, when the process is to end. ``memory_bytes`` 0: no watchdog.
    ``on_claim`` is called in the claiming thread with whatever was claimed.
    """

    def __init__(
        self,
        ledger: WorkerLedger,
        info: WorkerInfo,
        *,
        lease_s: float,
        heartbeat_s: float,
        deadline_s: float,
        probe_s: float = 60.0,
        memory_bytes: int = 0,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
        rss: Callable[[], int] | None = None,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        self.info = info
        self.id = info.id
        self.stop = threading.Event()
        self.lease_s = lease_s
        self.heartbeat_s = heartbeat_s
        self.deadline_s = deadline_s
        self.degraded = DegradedModels(probe_s=probe_s, clock=clock)
        self.draining = False
        self.on_claim: Callable[[Leased], None] = lambda _claimed: None
        self._ledger = ledger
        self._memory_bytes = memory_bytes
        self._grace_s = grace_s
        self._clock = clock
        self._rss = rss or rss_bytes
        self._leave = leave
        self._lock = threading.Lock()
        self._claiming = threading.Lock()
        self._holds: dict[str, Hold[Leased]] = {}
        self._claims = 0
        self._registered = False
        self._away = False
        self._stopped_at: float | None = None
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    # Claims and holds

    @property
    def leased(self) -> int:
        """How many leases this process holds."""
        with self._lock:
            return len(self._holds)

    def claim(self, take: Callable[[bool], C | None], *, limit: int) -> Hold[C] | None:
        """Claim with ``take(alone)`` unless the process may not.

        Claims of one process follow each other, so that a suspect (see `Hold.alone`) is only
        asked for, with ``alone`` true, when nothing else is held, and nothing joins it. None when
        the process stops or drains, holds ``limit`` leases, or the ledger has no work.
        """
        with self._claiming:
            with self._lock:
                held = list(self._holds.values())
            if self.stop.is_set() or self.draining or len(held) >= limit or any(hold.alone for hold in held):
                return None
            claimed_at = self._clock()
            claimed = take(not held)
            return None if claimed is None else self.holding(claimed, claimed_at=claimed_at)

    def holding(
        self, claimed: C, *, claimed_at: float | None = None, renew: Callable[[], bool] | None = None
    ) -> Hold[C]:
        """Register a lease that was claimed outside `claim`.

        ``renew`` renews it instead of the heartbeat's statement and answers whether it is still ours.
        ``claimed_at``: monotonic time before the claim was sent.
        """
        marks = {ClaimedUnit: self._ledger.mark_unit, ClaimedShard: self._ledger.mark_shard}
        hold = Hold(
            claimed,
            lease_s=self.lease_s,
            claimed_at=self._clock() if claimed_at is None else claimed_at,
            clock=self._clock,
            end=self._let_end,
            renew=renew,
            write_marks=marks.get(type(claimed)),
        )
        with self._lock:
            self._holds[hold.token] = hold
            self._claims += 1
        if self.stop.is_set():
            hold.let_go("stop")
        self.on_claim(claimed)
        return hold

    def _let_end(self, hold: Hold[Leased]) -> None:
        with self._lock:
            self._holds.pop(hold.token, None)

    # Life

    def start(self) -> None:
        """Register with the ledger, waiting for it if need be, and start both threads.

        LedgerError when the ledger refuses this worker for good.
        """
        while not self.stop.is_set() and not self._register():
            self.stop.wait(min(1.0, self.heartbeat_s))
        for name, step in (("watch", self._watch_loop), ("beat", self._beat_loop)):
            thread = threading.Thread(target=step, name=f"worker-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End both threads and sign off; quietly where the ledger is away."""
        self.stop.set()
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=2.0)
        with contextlib.suppress(LedgerError):
            self._ledger.retire(self.id)

    def exit_hard(self, code: int) -> None:
        """Leave at once, without waiting for any thread; log lines are flushed first."""
        for handler in (*logging.root.handlers, *logging.getLogger("celery").handlers):
            with contextlib.suppress(OSError, ValueError):
                handler.flush()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        self._leave(code)

    def _register(self) -> bool:
        try:
            self._ledger.register(self.info)
        except LedgerUnavailableError as exc:
            self._note_away(exc)
            return False
        self._note_back()
        return True

    # Heartbeat

    def beat(self) -> bool:
        """One heartbeat: renew all leases, learn what is lost, paused or drained; False while the ledger is away."""
        with self._lock:
            holds = {token: hold for token, hold in self._holds.items() if not hold.lost}
            claims = self._claims
        tokens = tuple(token for token, hold in holds.items() if hold.renew is None)
        sent_at = self._clock()
        try:
            answer = self._ledger.heartbeat(self.id, tokens, lease_s=self.lease_s, rss_bytes=self._rss(), claims=claims)
            for token, hold in holds.items():
                kept = token not in answer.lost if hold.renew is None else hold.renew()
                self._apply(hold, kept, sent_at, answer.runs.get(hold.claimed.run))
            self.draining = answer.draining
            if not answer.known:
                self._ledger.register(self.info)
                self.degraded.forget_told()
            self._tell_degraded()
        except LedgerUnavailableError as exc:
            self._note_away(exc)
            return False
        self._note_back()
        return True

    @staticmethod
    def _apply(hold: Hold[Leased], kept: bool, sent_at: float, state: RunState | None) -> None:
        if kept:
            hold.renewed(sent_at)
        else:
            hold.let_go("lost")
        if state is not None:
            hold.seen(state)

    def _tell_degraded(self) -> None:
        for model, reason in self.degraded.untold().items():
            self._ledger.degrade(self.id, model, reason)
            self.degraded.told(model, reason)

    def _beat_loop(self) -> None:
        while not self._closed.is_set():
            began = self._clock()
            try:
                answered = self.beat()
            except Exception:  # the heart must go on; leases fence themselves when it does not renew them
                logger.exception("heartbeat_failed", extra={"worker": self.id})
                answered = False
            pause = self.heartbeat_s if answered else min(1.0, self.heartbeat_s)
            self._closed.wait(max(0.01, pause - (self._clock() - began)))

    def _note_away(self, exc: LedgerUnavailableError) -> None:
        if not self._away:
            logger.warning("ledger_away", extra={"worker": self.id, "error": str(exc)})
        self._away = True

    def _note_back(self) -> None:
        if self._away:
            logger.info("ledger_back", extra={"worker": self.id})
        self._away = False

    # Watch

    def watch(self) -> None:
        """One look at clocks and memory: tell holds to let go, probe models, leave when nothing else helps."""
        with self._lock:
            holds = list(self._holds.values())
        if self._memory_bytes and self._rss() > self._memory_bytes:
            self._leave_for_memory(holds)
        if self.stop.is_set():
            for hold in holds:
                hold.let_go("stop")
            self._stopped_at = self._clock() if self._stopped_at is None else self._stopped_at
        stuck = [hold.token for hold in holds if hold.should_stop() and hold.overdue_s > self._grace_s]
        late = self._stopped_at is not None and self._clock() - self._stopped_at > self._grace_s
        if stuck or (late and holds):
            logger.critical("threads_stuck", extra={"worker": self.id, "leases": len(holds), "overdue": len(stuck)})
            self.exit_hard(EXIT_STUCK)
        elif late:
            logger.error("shutdown_stuck", extra={"worker": self.id})
            self.exit_hard(0)
        self.degraded.probe_due()

    def _watch_loop(self) -> None:
        while not self._closed.is_set():
            self.watch()
            self._closed.wait(min(_TICK_S, self.heartbeat_s / 2))

    def _leave_for_memory(self, holds: list[Hold[Leased]]) -> None:
        """Say so at the marks of what is held, within a second, then leave: a loss, which makes it suspect."""
        logger.critical("memory_exceeded", extra={"worker": self.id, "budget_bytes": self._memory_bytes})
        note = threading.Thread(target=note_memory, args=(holds,), daemon=True)
        note.start()
        note.join(timeout=1.0)
        self.exit_hard(EXIT_MEMORY)
