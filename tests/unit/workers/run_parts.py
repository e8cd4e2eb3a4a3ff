"""Runs, statuses and workers as the ledger gives them, with full defaults."""

from __future__ import annotations

import datetime as dt
from typing import Any

from workers.ledger.records import (
    GroupEntry,
    ModelEntry,
    RunRecord,
    RunState,
    RunStatus,
    StageStatus,
    WorkerInfo,
    WorkerRecord,
)

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def run_record(state: RunState = RunState.RUNNING, **changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "id": 7, "fingerprint": "f" * 64, "output": "/out", "state": state, "reason": None, "priority": 0,
        "max_requests": None, "n_rows": 1000, "shard_size": 100, "shards_per_part": 64,
        "groups": (GroupEntry(0, "k", ("B1",), 100),),
        "models": (ModelEntry(0, "small", "null", 0, "gpu.null", "cpu"),),
        "spec": {"secret": "much"}, "generation": 0, "requests": 12, "created_at": NOW, "ended_at": None,
    }  # fmt: skip
    return RunRecord(**{**fields, **changes})


def stage(
    done: int = 0, *, stage: str = "embed", label: str = "small", total: int = 1000, **changes: Any
) -> StageStatus:
    fields: dict[str, Any] = {
        "stage": stage, "label": label, "done": done, "no_data": 0, "low_quality": 0, "failed": 0,
        "open": total - done, "ready_units": 1, "leased_units": 2, "oldest_ready_s": 3.0, "rate_1m": 10.0,
        "rate_5m": 9.0, "rate_60m": 8.0, "eta_s": (total - done) / 10,
    }  # fmt: skip
    return StageStatus(**{**fields, **changes})


def run_status(
    state: RunState = RunState.RUNNING, done: int = 0, *, run: RunRecord | None = None, **changes: Any
) -> RunStatus:
    fields: dict[str, Any] = {
        "run": run or run_record(state), "stages": (stage(done, stage="fetch"), stage(done)), "failures": {},
        "losses": 0, "expiries": 0, "suspects": 0, "requests": 12, "unserved": (),
    }  # fmt: skip
    return RunStatus(**{**fields, **changes})


def worker_record(kind: Any = "cpu", **changes: Any) -> WorkerRecord:
    device = changes.pop("device", "cpu")
    queues = changes.pop("queues", ("io", "control") if kind == "io" else ("gpu.null",))
    info = WorkerInfo(changes.pop("id", "0123456789"), kind, changes.pop("host", "far"), 3, queues, (), device, "0")
    fields: dict[str, Any] = {
        "info": info, "state": "running", "started_at": NOW, "heartbeat_age_s": 1.0, "claim_age_s": 500.0,
        "degraded": {}, "rss_bytes": 10, "leased": 0,
    }  # fmt: skip
    return WorkerRecord(**{**fields, **changes})
