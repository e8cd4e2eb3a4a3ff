"""Values that cross the ledger's border: frozen, plain, without a trace of the database.

A *slot* is a row's place in its shard: ``seq - first_seq``. A *token* fences a lease; it is
opaque outside the ledger, is unique for each claim and may be part of a file's name. Times are
the database's own and carry a zone.
"""

from __future__ import annotations

from workers.ledger.run_records import (
    GroupEntry,
    ModelEntry,
    NewRun,
    RunRecord,
    RunState,
    ShardState,
    StoredRows,
    UnitState,
)
from workers.ledger.view_records import (
    Event,
    Expired,
    FailedRow,
    HeartbeatAnswer,
    Measure,
    RunStatus,
    StageStatus,
    WorkerInfo,
    WorkerRecord,
)
from workers.ledger.work_records import ClaimedShard, ClaimedUnit, FailureDetail, Marks, RowOutcome, SettleAnswer

__all__ = [
    "ClaimedShard",
    "ClaimedUnit",
    "Event",
    "Expired",
    "FailedRow",
    "FailureDetail",
    "GroupEntry",
    "HeartbeatAnswer",
    "Marks",
    "Measure",
    "ModelEntry",
    "NewRun",
    "RowOutcome",
    "RunRecord",
    "RunState",
    "RunStatus",
    "SettleAnswer",
    "ShardState",
    "StageStatus",
    "StoredRows",
    "UnitState",
    "WorkerInfo",
    "WorkerRecord",
]
