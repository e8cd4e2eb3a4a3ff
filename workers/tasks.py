"""The task shells, and the worker that runs them: Celery's threads pool around `WorkerProcess`.

A shell asks its service for one piece of work, reports it, and raises only what has been
recorded already. The services are built with the first ticket, once per process.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from celery import Task, signals
from celery.apps.worker import Worker
from celery.worker.consumer import Consumer

from workers.app import make_app
from workers.hold import Leased
from workers.ledger.errors import LedgerUnavailableError
from workers.process import WorkerProcess
from workers.queues import STAGES, ModelKind, models_of
from workers.report import WorkFailedError, WorkReport
from workers.ticket import Ticket

logger = logging.getLogger(__name__)

EVENTS_S = 0.5
"""So long events for onlookers are gathered: a message to the broker costs 5 ms, as much as fetching 20 rows."""
_CHATTY = ("celery.worker.strategy", "celery.app.trace", "celery.worker.consumer.consumer")


class Service(Protocol):
    """What a task asks for one piece of work."""

    def work_once(self) -> WorkReport:
        """Claim, do and settle one unit; returns what became of it."""
        ...


class _Consumer(Consumer):
    """Celery's consumer, which sends events every `EVENTS_S` and not each by itself."""

    hub: Any
    event_dispatcher: Any
    _asked_at = 0.0

    def on_send_event_buffered(self) -> Any:
        """See Consumer; called by the threads of the pool as well."""
        now = time.monotonic()
        if self.hub and now - self._asked_at >= EVENTS_S:
            self._asked_at = now
            self.hub.call_soon(self.hub.call_later, EVENTS_S, self._send_events)

    def _send_events(self) -> None:
        if self.event_dispatcher:
            self.event_dispatcher.flush()


class _Worker(Worker):
    """Celery's worker, which calls ``closing`` before it waits for its tasks, whatever ends it."""

    def __init__(self, *, closing: Callable[[], None], **options: Any) -> None:
        self._closing = closing
        super().__init__(**options)

    def on_close(self) -> None:
        """See WorkController."""
        self._closing()
        super().on_close()


class LazyService:
    """A service that is built when its first ticket comes, and again where building failed."""

    def __init__(self, build: Callable[[], Service]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._service: Service | None = None

    def work_once(self) -> WorkReport:
        """See `Service`."""
        with self._lock:
            if self._service is None:
                self._service = self._build()
                # All that was imported and built stays as long as the process: the collector need not look
                # through it again and again, which takes 4 % of a worker's time.
                gc.collect()
                gc.freeze()
        return self._service.work_once()


class TicketWorker:
    """A Celery worker of this process: takes tickets from ``queues`` with ``concurrency`` threads.

    ``services``: task name -> how to build what does its work. ``models``: id -> kind of the models
    served; a queue is left while none of its models works here.
    """

    def __init__(
        self,
        redis_url: str,
        process: WorkerProcess,
        services: Mapping[str, Callable[[], Service]],
        *,
        queues: Sequence[str],
        concurrency: int,
        models: Mapping[str, ModelKind] | None = None,
    ) -> None:
        self._process = process
        self._concurrency = concurrency
        self._queues = tuple(queues)
        self._models = models or {}
        self._app = make_app(redis_url, queues)
        self._consumer: Any = None
        self._lock = threading.Lock()
        self._running = 0
        self._moved_at = time.monotonic()
        for name, build in services.items():
            self._add_task(name, LazyService(build))
        process.on_claim = self._announce
        process.degraded.left = self._leave
        process.degraded.joined = self._join

    def run(self) -> int:
        """Work until SIGTERM, SIGINT or SIGHUP; the exit code. Has to be called in the main thread."""
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        signals.setup_logging.connect(_keep_logging)
        signals.worker_shutting_down.connect(self._shutting_down, weak=False)
        signals.worker_ready.connect(self._ready, weak=False)
        worker = _Worker(
            app=self._app,
            closing=self._process.stop.set,
            consumer_cls=_Consumer,
            hostname=f"{self._process.info.kind}-{self._process.id[:8]}@{self._process.info.host}",
            pool="threads",
            concurrency=self._concurrency,
            queues=list(self._queues),
            task_events=True,
            without_gossip=True,
            without_mingle=True,
            quiet=True,
        )
        try:
            worker.start()
        finally:
            self._process.stop.set()
        return int(worker.exitcode or 0)

    def idle_s(self) -> float:
        """Seconds since a task began or ended; 0 while one runs."""
        with self._lock:
            return 0.0 if self._running else time.monotonic() - self._moved_at

    def listening(self) -> tuple[str, ...]:
        """The queues it takes tickets from at the moment."""
        return tuple(self._app.amqp.queues.consume_from)

    def _leave(self, model: str) -> None:
        """Take no more tickets from the queue of ``model`` unless another model of it works."""
        broken = self._process.degraded.reasons()
        for queue in self._queues_of(model):
            if all(other in broken for other in models_of(queue, self._models)):
                self._consumer.call_soon(self._consumer.cancel_task_queue, queue)

    def _join(self, model: str) -> None:
        for queue in self._queues_of(model):
            self._consumer.call_soon(self._consumer.add_task_queue, queue)

    def _queues_of(self, model: str) -> list[str]:
        """The queues of ours, once we consume, that carry shards of ``model``."""
        ours = () if self._consumer is None else self._queues
        return [queue for queue in ours if model in models_of(queue, self._models)]

    def _add_task(self, name: str, service: LazyService) -> None:
        @self._app.task(name=name, bind=True, throws=(WorkFailedError,))
        def shell(_task: Task[Any, Any], /, **_ticket: object) -> dict[str, int | str | None]:
            self._count(1)
            try:
                report = service.work_once()
            except LedgerUnavailableError as exc:
                logger.warning("ledger_away", extra={"task": name, "error": str(exc)})
                self._process.stop.wait(1.0)
                report = WorkReport.nothing(STAGES[name])
            finally:
                self._count(-1)
            return report.checked().to_json()

    def _count(self, change: int) -> None:
        with self._lock:
            self._running += change
            self._moved_at = time.monotonic()

    def _announce(self, claimed: Leased) -> None:
        """Show in Flower what the running task has claimed, in place of its ticket's hint."""
        dispatcher = getattr(self._consumer, "event_dispatcher", None)
        task = self._app.current_task
        if dispatcher is None or task is None:
            return
        model = getattr(claimed, "model", None)
        ticket = Ticket(STAGES[task.name], claimed.run, getattr(claimed, "shard", None), getattr(model, "label", None))
        try:
            dispatcher.send("task-started", uuid=task.request.id, kwargs=str(ticket))
        except Exception as exc:  # noqa: BLE001 - an event for onlookers must not cost work
            logger.debug("event_lost", extra={"error": str(exc)})

    def _ready(self, sender: Any, **_: object) -> None:
        self._consumer = sender
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        logger.info("worker_ready", extra={"worker": self._process.id, "queues": ",".join(self._queues)})

    def _shutting_down(self, **_: object) -> None:
        self._process.stop.set()


def _keep_logging(**_: object) -> None:
    """Whoever started the process has set up logging."""
