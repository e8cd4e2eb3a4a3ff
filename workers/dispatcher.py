"""The one process that keeps the fleet moving: admits fetch units, writes tickets, takes back expired leases.

It holds nothing that its successor could not read from the ledger. One leads, by an advisory
lock; others wait. A broker that is away stops tickets and nothing else.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rsembed.version import __version__
from workers.app import TicketSender
from workers.broker import BrokerAwayError
from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.records import Expired, HeartbeatAnswer, WorkerInfo
from workers.ledger.repository import Ledger
from workers.memory import rss_bytes
from workers.metrics import serve_metrics
from workers.publisher import Publisher, RedisLengths
from workers.queues import CONTROL
from workers.schema import wait_for_schema
from workers.settings import FleetSettings

logger = logging.getLogger(__name__)

UNITS_AHEAD = 256
"""Fetch units of one run that are admitted and not yet claimed: enough for several ticks of all IO workers."""
BUSY_S = 0.2
IDLE_S = 1.0
AUDIT_S = 10.0
JUDGE_S = 2.0
CLEAN_S = 600.0
COMPACT_S = 3600.0
RETRY_S = 1.0


class Lead(Protocol):
    """What of the ledger's leadership is used here."""

    def sweep(self, grace_s: float) -> Expired: ...
    def audit(self) -> int: ...
    def ready(self) -> Mapping[str, int]: ...
    def admit(self, budget_bytes: int, per_run_ahead: int, served_models: Sequence[str] | None = None) -> int: ...
    def served_models(self) -> list[str]: ...
    def block_hopeless(self) -> list[int]: ...
    def block_unserved(self) -> list[int]: ...
    def unblock_due(self, probe_s: float) -> list[int]: ...
    def pause_spent(self) -> list[int]: ...
    def compact(self) -> int: ...
    def close(self) -> None: ...


class DispatcherLedger(Protocol):
    """What of the ledger is used here."""

    def lead(self) -> Lead | None: ...
    def register(self, worker: WorkerInfo) -> None: ...
    def heartbeat(
        self, worker_id: str, tokens: Sequence[str], *, lease_s: float, rss_bytes: int, claims: int
    ) -> HeartbeatAnswer: ...
    def retire(self, worker_id: str) -> None: ...


class Timer:
    """Tells when something is due again; due at once at first. Seconds."""

    def __init__(self, period_s: float, clock: Callable[[], float]) -> None:
        self._period_s = period_s
        self._clock = clock
        self._next = clock()

    def due(self) -> bool:
        """Whether it is time; if so, the next time is a period from now."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._period_s
        return True


class Dispatcher:
    """Small steps on the leadership's connection; `step` is one round of those that are due."""

    def __init__(
        self,
        lead: Lead,
        publisher: Publisher,
        settings: FleetSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lead = lead
        self._publisher = publisher
        self._settings = settings
        self._sweep = Timer(settings.sweep_s, clock)
        self._judge = Timer(JUDGE_S, clock)
        self._audit = Timer(AUDIT_S, clock)
        self._clean = Timer(CLEAN_S, clock)
        self._compact = Timer(COMPACT_S, clock)
        self._broker_retry = Timer(RETRY_S, clock)
        self._broker_away = False
        self._served: list[str] = []

    def step(self) -> bool:
        """Whatever is due; whether there is work about. LedgerUnavailableError ends the leadership."""
        if self._sweep.due():
            self._expire()
        if self._judge.due():
            self._judge_runs()
            self._served = [*self._lead.served_models(), *self._settings.autoscaled_models]
        if self._audit.due():
            readied = self._lead.audit()
            if readied:
                logger.warning("shards_readied", extra={"shards": readied})
        if self._compact.due():
            self._lead.compact()
        self._lead.admit(self._settings.inputs_budget_bytes, UNITS_AHEAD, self._served)
        return self._publish()

    def _expire(self) -> None:
        expired = self._lead.sweep(self._settings.lease_s)
        if expired != Expired():
            logger.warning(
                "leases_expired",
                extra={
                    "units": expired.units,
                    "shards": expired.shards,
                    "finishing": expired.finishing,
                    "cancelled": expired.cancelled,
                    "workers": expired.workers,
                },
            )

    def _judge_runs(self) -> None:
        """Block what cannot succeed, take up again what may."""
        for event, runs in (
            ("run_hopeless", self._lead.block_hopeless()),
            ("run_unserved", self._lead.block_unserved()),
            ("run_spent", self._lead.pause_spent()),
            ("run_taken_up", self._lead.unblock_due(self._settings.probe_s)),
        ):
            for run in runs:
                logger.warning(event, extra={"run": run})

    def _publish(self) -> bool:
        """Top up the queues; whether anything is ready."""
        ready = dict(self._lead.ready())
        about = any(ready.values())
        if self._clean.due():
            ready[CONTROL] = ready.get(CONTROL, 0) + 1
        if self._broker_away and not self._broker_retry.due():
            return about
        try:
            self._publisher.top_up(ready)
        except BrokerAwayError as exc:
            if not self._broker_away:
                logger.warning("broker_away", extra={"error": str(exc)})
            self._broker_away = True
            return about
        if self._broker_away:
            logger.info("broker_back")
        self._broker_away = False
        return about


class Dispatching:
    """Life of a dispatcher process: waits to lead, leads, and starts over when its connection is lost."""

    def __init__(
        self,
        ledger: DispatcherLedger,
        publisher: Publisher,
        settings: FleetSettings,
        stop: threading.Event,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._settings = settings
        self._stop = stop
        self._retry_s = retry_s
        host = socket.gethostname()
        self._info = WorkerInfo(str(uuid.uuid4()), "dispatcher", host, os.getpid(), (), (), "cpu", __version__)
        self._beat = Timer(settings.heartbeat_s, time.monotonic)
        self._known = False

    def run(self) -> None:
        """Until the stop event; a ledger that is away is waited for."""
        while not self._stop.is_set():
            try:
                self._stand_by()
            except LedgerUnavailableError as exc:
                logger.warning("ledger_away", extra={"error": str(exc)})
                self._stop.wait(self._retry_s)
        self._publisher.close()

    def retire(self) -> None:
        """Sign off in the ledger. LedgerUnavailableError when it is away."""
        self._ledger.retire(self._info.id)

    def _stand_by(self) -> None:
        while not self._stop.is_set():
            self._report()
            lead = self._ledger.lead()
            if lead is not None:
                try:
                    self._preside(lead)
                finally:
                    lead.close()
                return
            self._stop.wait(min(self._retry_s, self._settings.sweep_s))

    def _preside(self, lead: Lead) -> None:
        logger.info("leading", extra={"dispatcher": self._info.id})
        dispatcher = Dispatcher(lead, self._publisher, self._settings)
        while not self._stop.is_set():
            self._report()
            busy = dispatcher.step()
            self._stop.wait(BUSY_S if busy else min(IDLE_S, self._settings.sweep_s))

    def _report(self) -> None:
        """Be seen among the workers."""
        if not self._beat.due():
            return
        if not self._known:
            self._ledger.register(self._info)
        answer = self._ledger.heartbeat(
            self._info.id, (), lease_s=self._settings.lease_s, rss_bytes=rss_bytes(), claims=0
        )
        self._known = answer.known


def run_dispatcher(settings: FleetSettings, stop: threading.Event) -> None:
    """Dispatch until ``stop`` is set. SpecError without database or broker, LedgerError for another schema."""
    url, redis_url = settings.need_direct_database_url(), settings.need_redis_url()
    wait_for_schema(url, stop)
    ledger = Ledger(url, direct=True)
    publisher = Publisher(TicketSender(redis_url), RedisLengths(redis_url))
    dispatching = Dispatching(ledger, publisher, settings, stop)
    try:
        with serve_metrics(settings, ledger):
            dispatching.run()
        dispatching.retire()
    except LedgerUnavailableError:
        logger.info("not_retired", extra={"reason": "the ledger is away"})
    finally:
        ledger.close()
