"""Committed files: :class:`PartRecord` to and from the columns of ``infer_jobs`` and ``parts``."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import RowMapping

from rsembed.core.embedding import RowStatus
from rsembed.pipelines.checkpoint import PartRecord
from workers.ledger.events import to_text
from workers.ledger.failure_rows import failures_from_json, failures_json

FILE_COLUMNS = (
    "name = :name, file_rows = :file_rows, file_bytes = :file_bytes, sha256 = :sha256, counts = :counts, "
    "row_failures = :row_failures, requests = :requests, batch_size = :batch_size, "
    "commit_no = nextval('commit_numbers')"
)
"""Assignments for the parameters of :func:`file_parameters`."""


def file_parameters(record: PartRecord) -> dict[str, object]:
    """What the ledger keeps of a file."""
    return {
        "name": record.name,
        "first_seq": record.first_seq,
        "file_rows": record.rows,
        "file_bytes": record.bytes,
        "sha256": record.sha256,
        "counts": to_text(dict(record.counts)),
        "row_failures": to_text(failures_json(record.failures)),
        "requests": record.requests,
        "batch_size": record.batch_size,
    }


def row_counts(record: PartRecord) -> dict[str, int]:
    """Rows by what the status shows; a known hole of the catalogue counts as no data."""
    counts = record.counts
    return {
        "ok": counts.get(RowStatus.OK, 0),
        "low_quality": counts.get(RowStatus.LOW_QUALITY, 0),
        "no_data": counts.get(RowStatus.NO_DATA, 0) + counts.get(RowStatus.COLLECTION_GAP, 0),
        "failed": counts.get(RowStatus.FAILED, 0),
    }


def read_file(row: RowMapping, kind: Literal["shard", "part"], label: str, index: int) -> PartRecord | None:
    """The file that a row of ``infer_jobs`` or ``parts`` tells of; None where it has none yet."""
    if row["name"] is None:
        return None
    return PartRecord(
        kind=kind,
        label=label,
        index=index,
        name=row["name"],
        first_seq=row["first_seq"],
        rows=row["file_rows"],
        bytes=row["file_bytes"],
        sha256=row["sha256"],
        counts=row["counts"],
        failures=failures_from_json(row["row_failures"]),
        requests=row["requests"],
        batch_size=row["batch_size"],
    )
