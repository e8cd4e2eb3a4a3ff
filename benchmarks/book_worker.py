"""A Celery worker that only keeps books: what tickets and ledger cost alone; started by fleet_scale.py."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rsembed.pipelines.checkpoint import PartRecord  # noqa: E402 - the path comes first
from workers.ledger.records import (  # noqa: E402 - the path comes first
    ClaimedShard,
    ClaimedUnit,
    RowOutcome,
    WorkerInfo,
)
from workers.ledger.repository import Ledger  # noqa: E402 - the path comes first
from workers.process import WorkerProcess  # noqa: E402 - the path comes first
from workers.report import WorkReport  # noqa: E402 - the path comes first
from workers.settings import FleetSettings  # noqa: E402 - the path comes first


class BookFetch:
    """Settles every row of a unit as done, without having fetched it."""

    def __init__(self, process: WorkerProcess, ledger: Ledger) -> None:
        self._process, self._ledger = process, ledger

    def work_once(self) -> WorkReport:
        """See Service."""
        process, ledger = self._process, self._ledger
        hold = process.claim(lambda _: ledger.claim_unit(process.id, process.lease_s, process.deadline_s), limit=8)
        if hold is None:
            return WorkReport.nothing("fetch")
        with hold:
            unit: ClaimedUnit = hold.claimed
            rows = ledger.stored_rows(unit.run, unit.first_seq, unit.n_rows)
            outcomes = [
                RowOutcome(slot, rows.seq[slot], rows.row[slot], rows.ids[slot], "done") for slot in range(unit.n_rows)
            ]
            ledger.settle_rows(unit.token, outcomes, requests=unit.n_rows)
            return WorkReport(unit.run, "fetch", unit.shard, None, unit.n_rows, 0, 0)


class BookInfer:
    """Settles a shard with the record of a file that nobody has written."""

    def __init__(self, process: WorkerProcess, ledger: Ledger) -> None:
        self._process, self._ledger = process, ledger

    def work_once(self) -> WorkReport:
        """See Service."""
        process, ledger = self._process, self._ledger
        hold = process.claim(lambda _: claim_shard(process, ledger), limit=3)
        if hold is None:
            return WorkReport.nothing("embed")
        with hold:
            shard: ClaimedShard = hold.claimed
            ledger.settle_shard(shard.token, book_record(shard))
            return WorkReport(shard.run, "embed", shard.shard, shard.model.label, shard.n_rows, 0, 0)


class NoFinish:
    """Leaves runs as they are: there are no files to put together."""

    def work_once(self) -> WorkReport:
        """See Service."""
        time.sleep(0.2)
        return WorkReport.nothing("finish")


def claim_shard(process: WorkerProcess, ledger: Ledger) -> ClaimedShard | None:
    return ledger.claim_shard(process.id, None, [], 30.0, process.lease_s, process.deadline_s, "cpu")


def book_record(shard: ClaimedShard) -> PartRecord:
    n = shard.n_rows
    name = f"{shard.model.label}/_shards/shard-{shard.shard:06d}.parquet"
    return PartRecord("shard", shard.model.label, shard.shard, name, shard.first_seq, n, 1, "0" * 64, {"ok": n})


def book_worker(kind: Literal["io", "cpu"]) -> int:
    """A Celery worker whose services only keep books; runs in a process of its own."""
    from rsembed.plugins import load_plugins
    from workers.queues import CONTROL, IO, TASK_CONTROL, TASK_FETCH, TASK_INFER
    from workers.tasks import Service, TicketWorker
    from workers.worker import known_models

    settings = FleetSettings.from_environment()
    load_plugins(settings.plugins)
    ledger = Ledger(settings.need_database_url())
    models = {} if kind == "io" else known_models(["null"])
    queues = (IO, CONTROL) if kind == "io" else ("gpu.null",)
    info = WorkerInfo(str(uuid.uuid4()), kind, "here", os.getpid(), queues, (), "cpu", "benchmark")
    process = WorkerProcess(ledger, info, lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s, deadline_s=600)
    services: dict[str, Callable[[], Service]] = {
        TASK_FETCH: lambda: BookFetch(process, ledger),
        TASK_INFER: lambda: BookInfer(process, ledger),
        TASK_CONTROL: NoFinish,
    }
    worker = TicketWorker(settings.need_redis_url(), process, services, queues=queues, concurrency=3, models=models)
    process.start()
    return worker.run()


if __name__ == "__main__":
    sys.exit(book_worker("io" if sys.argv[1] == "io" else "cpu"))
