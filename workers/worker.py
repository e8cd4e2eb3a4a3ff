"""`rsembed fleet worker io|gpu|cpu`: one worker process from its parts."""

from __future__ import annotations

import logging
import os
import signal
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence

from rsembed.core.errors import ModelError
from rsembed.embedders.registry import REGISTRY
from rsembed.plugins import load_plugins
from rsembed.version import __version__
from workers.fetching import FetchService
from workers.finishing import Finisher
from workers.guard import ConsumerGuard
from workers.inferring import InferService
from workers.ledger.records import WorkerInfo
from workers.ledger.repository import Ledger
from workers.process import WorkerProcess
from workers.publisher import RedisLengths
from workers.queues import TASK_CONTROL, TASK_FETCH, TASK_INFER, ModelKind, WorkerKind, worker_queues
from workers.schema import wait_for_schema
from workers.settings import FleetSettings
from workers.tasks import Service, TicketWorker

logger = logging.getLogger(__name__)

THREADS: Mapping[WorkerKind, int] = {"io": 4, "gpu": 3, "cpu": 3}
"""Tickets in work at a time. IO tickets feed one pool of fetching threads; an inference worker reads,
computes and writes at the same time."""


def known_models(asked: Sequence[str] | None) -> dict[str, ModelKind]:
    """Id -> kind of the models ``asked`` for, or of all whose file can be imported here.

    UnknownModelError or ModelError for one that was asked for.
    """
    if asked is not None:
        return {REGISTRY.resolve(name): REGISTRY.get(name).card.kind for name in asked}
    kinds: dict[str, ModelKind] = {}
    for name in REGISTRY.names():
        try:
            kinds[name] = REGISTRY.get(name).card.kind
        except ModelError as exc:
            logger.warning("model_left_out", extra={"model": name, "error": str(exc)})
    return kinds


def run_worker(
    settings: FleetSettings,
    kind: WorkerKind,
    *,
    models: Sequence[str] | None = None,
    device: str = "cpu",
    concurrency: int | None = None,
) -> int:
    """Work until SIGTERM or SIGINT; the exit code. Has to be called in the main thread.

    ``models``: ids an inference worker serves, None for all. ``concurrency``: tickets in work at
    a time (default `THREADS`). SpecError without database, broker or input store, ModelError for
    an unknown model, LedgerError for a ledger of another schema.
    """
    url, redis_url = settings.need_database_url(), settings.need_redis_url()
    settings.need_inputs()
    load_plugins(settings.plugins)
    served = {} if kind == "io" else known_models(models)
    queues = worker_queues(kind, served, all_models=models is None)
    asked = () if models is None or kind == "io" else tuple(sorted(served))
    info = WorkerInfo(str(uuid.uuid4()), kind, socket.gethostname(), os.getpid(), queues, asked, device, __version__)
    ledger = Ledger(url)
    process = WorkerProcess(
        ledger,
        info,
        lease_s=settings.lease_s,
        heartbeat_s=settings.heartbeat_s,
        deadline_s=settings.deadline_s,
        probe_s=settings.probe_s,
        memory_bytes=settings.memory_mb * 2**20,
    )
    services: dict[str, Callable[[], Service]] = {
        TASK_FETCH: lambda: FetchService(process, ledger, settings),
        TASK_INFER: lambda: InferService(process, ledger, settings, asked or None, device),
        TASK_CONTROL: lambda: Finisher(process, ledger, settings),
    }
    worker = TicketWorker(
        redis_url, process, services, queues=queues, concurrency=concurrency or THREADS[kind], models=served
    )
    guard = ConsumerGuard(RedisLengths(redis_url), worker, leave=process.exit_hard)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stop.set())  # until Celery has its own
    try:
        wait_for_schema(url, process.stop)
        process.start()
        if process.stop.is_set():
            return 0
        guard.start()
        return worker.run()
    finally:
        guard.stop()
        process.close()
        ledger.close()
