"""Runs as the ledger reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping

from rsembed.core.patch import Json
from workers.ledger.errors import UnknownRunError
from workers.ledger.records import GroupEntry, ModelEntry, RunRecord, RunState
from workers.ledger.transactions import sql

_RUN = """
    SELECT r.*, CASE WHEN r.ended_at IS NOT NULL THEN r.requests ELSE coalesce(
        (SELECT sum(u.requests) FROM fetch_units u WHERE u.run_id = r.id), 0) END AS spent
    FROM runs r
"""


def read_runs(tx: Connection, condition: str, parameters: Mapping[str, object] | None = None) -> list[RunRecord]:
    """The runs that meet ``condition`` (what follows FROM, WHERE and ORDER BY included)."""
    found = tx.execute(sql(_RUN + condition), dict(parameters or {})).mappings().all()
    if not found:
        return []
    entries = tx.execute(
        sql("SELECT * FROM run_models WHERE run_id = ANY(:runs) ORDER BY run_id, model_index"),
        {"runs": [row["id"] for row in found]},
    ).mappings()
    models: dict[int, list[ModelEntry]] = {}
    for entry in entries:
        models.setdefault(entry["run_id"], []).append(model_entry(entry))
    return [_record(row, models.get(row["id"], ())) for row in found]


def read_run(tx: Connection, run_id: int) -> RunRecord:
    """The run; UnknownRunError where there is none."""
    found = read_runs(tx, "WHERE r.id = :run", {"run": run_id})
    if not found:
        raise UnknownRunError(f"there is no run {run_id}; `rsembed fleet runs` lists them")
    return found[0]


def lock_run(tx: Connection, run_id: int) -> tuple[RunState, RowMapping]:
    """State and columns of the run, which nobody else changes until the transaction ends."""
    found = tx.execute(sql("SELECT * FROM runs WHERE id = :run FOR NO KEY UPDATE"), {"run": run_id}).mappings().first()
    if found is None:
        raise UnknownRunError(f"there is no run {run_id}; `rsembed fleet runs` lists them")
    return RunState(found["state"]), found


def model_entry(row: RowMapping) -> ModelEntry:
    """A row of ``run_models``."""
    return ModelEntry(
        row["model_index"], row["label"], row["model"], row["group_index"], row["queue"], row["device_class"]
    )


def group_json(group: GroupEntry) -> dict[str, Json]:
    """As ``runs.groups`` holds it."""
    return {
        "index": group.index,
        "input_key": group.input_key,
        "bands": list(group.bands),
        "bytes_per_row": group.bytes_per_row,
    }


def _record(row: RowMapping, models: Sequence[ModelEntry]) -> RunRecord:
    groups: list[dict[str, Any]] = row["groups"]
    return RunRecord(
        id=row["id"],
        fingerprint=row["fingerprint"],
        output=row["output"],
        state=RunState(row["state"]),
        reason=row["reason"],
        priority=row["priority"],
        max_requests=row["max_requests"],
        n_rows=row["n_rows"],
        shard_size=row["shard_size"],
        shards_per_part=row["shards_per_part"],
        groups=tuple(
            GroupEntry(group["index"], group["input_key"], tuple(group["bands"]), group["bytes_per_row"])
            for group in groups
        ),
        models=tuple(models),
        spec=row["spec"],
        generation=row["generation"],
        requests=int(row["spent"]),
        created_at=row["created_at"],
        ended_at=row["ended_at"],
    )
