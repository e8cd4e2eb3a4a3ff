"""A real Celery worker around services that do nothing, as a program: one JSON argument (see Job).

What it does goes to the Redis list ``done``, one word a ticket; exit status as the worker's own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from celery import signals

from rsembed.cli.log_lines import set_up_logging
from workers.broker import connect_redis
from workers.guard import ConsumerGuard
from workers.ledger.records import HeartbeatAnswer, Marks, WorkerInfo
from workers.process import WorkerProcess
from workers.publisher import RedisLengths
from workers.queues import TASK_FETCH, TASK_INFER, ModelKind
from workers.report import WorkReport
from workers.tasks import TicketWorker

MODELS: dict[str, ModelKind] = {"a": "onthefly", "b": "onthefly"}


@dataclass(frozen=True)
class Job:
    """``seconds``: how long one ticket takes; ``deaf``: work on when told to stop; ``silent``: count only.

    ``mute``: the consumer takes nothing; ``broken``: a model that works after one probe only.
    """

    redis_url: str
    queues: tuple[str, ...]
    concurrency: int = 3
    seconds: float = 0.0
    deaf: bool = False
    fail: bool = False
    silent: bool = False
    patience_s: float = 45.0
    grace_s: float = 25.0
    mute: bool = False
    broken: str = ""
    probe_s: float = 60.0

    def to_text(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Lease:
    """A lease on a shard, as the ledger would give it."""

    run: int
    shard: int
    token: str
    deadline_s: float = 600.0


class NoLedger:
    """Takes everything and forgets it."""

    def register(self, info: WorkerInfo) -> None: ...

    def heartbeat(
        self, worker_id: str, tokens: Collection[str], *, lease_s: float, rss_bytes: int, claims: int
    ) -> HeartbeatAnswer:
        return HeartbeatAnswer(frozenset(), {}, draining=False)

    def degrade(self, worker_id: str, model: str, reason: str | None) -> None: ...

    def mark_unit(self, token: str, marks: Marks) -> bool:
        return True

    def mark_shard(self, token: str, marks: Marks) -> bool:
        return True

    def retire(self, worker_id: str) -> None: ...


class Counting:
    """A service that claims, waits, and writes down that it was here."""

    def __init__(self, job: Job, process: WorkerProcess) -> None:
        self._job = job
        self._process = process
        self._redis = connect_redis(job.redis_url)
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()

    def ready(self) -> None:
        self._redis.incr("ready")

    def work_once(self) -> WorkReport:
        if self._job.silent:
            self._redis.incr("count")
            return WorkReport(1, "fetch", 0, None, 1, 0, 0)
        with self._lock:
            shard = next(self._numbers)
        if self._job.broken and shard == 0:
            self._process.degraded.add(self._job.broken, "no weights")
        self._redis.incr("running")
        with self._process.holding(Lease(7, shard, uuid.uuid4().hex)) as hold:
            end = time.monotonic() + self._job.seconds
            while time.monotonic() < end and (self._job.deaf or not hold.should_stop()):
                time.sleep(0.02)
            released = int(hold.should_stop())
        self._redis.rpush("done", "released" if released else "done")
        failed = int(self._job.fail)
        return WorkReport(7, "fetch", shard, None, 1 - released - failed, failed, released)


def main() -> int:
    fields = json.loads(sys.argv[1])
    job = Job(**(fields | {"queues": tuple(fields["queues"])}))
    set_up_logging(2)
    logging.getLogger("celery").setLevel(logging.INFO)
    info = WorkerInfo(str(uuid.uuid4()), "io", "test", os.getpid(), job.queues, (), "cpu", "0")
    process = WorkerProcess(
        NoLedger(), info, lease_s=2.0, heartbeat_s=0.5, deadline_s=600.0, grace_s=job.grace_s, probe_s=job.probe_s
    )
    service = Counting(job, process)
    worker = TicketWorker(
        job.redis_url,
        process,
        {TASK_FETCH: lambda: service, TASK_INFER: lambda: service},
        queues=job.queues,
        concurrency=job.concurrency,
        models=MODELS,
    )

    def ready(sender: Any, **_: object) -> None:
        if job.mute:
            sender.task_consumer.cancel()
        service.ready()

    signals.worker_ready.connect(ready)
    guard = ConsumerGuard(RedisLengths(job.redis_url), worker, patience_s=job.patience_s, leave=process.exit_hard)
    process.start()
    guard.start()
    code = worker.run()
    process.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
