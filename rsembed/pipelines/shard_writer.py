"""A shard's rows under their final name: the step between inference and the checkpoint, for every driver."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rsembed.core.errors import StoreConflictError
from rsembed.pipelines.checkpoint import FailureRecord, PartRecord
from rsembed.pipelines.fetch_unit import FetchUnit
from rsembed.pipelines.inference import ShardOutcome
from rsembed.pipelines.plan import ModelPlan
from rsembed.pipelines.run_output import PartRows, RunOutput
from rsembed.pipelines.run_state import LostShardError, RunShape, recorded_rows
from rsembed.pipelines.shard_table import failure_records, merge, shard_table, status_counts
from rsembed.writers.dataset import write_shard_rows
from rsembed.writers.store import Stored, scratch_file


@dataclass(frozen=True)
class Earlier:
    """What was there of a shard that is done again in part: its record and all its rows, in order."""

    record: PartRecord
    rows: pa.Table


def write_shard(
    output: RunOutput,
    unit: FetchUnit,
    model: ModelPlan,
    outcome: ShardOutcome,
    schema: pa.Schema,
    *,
    requests: int = 0,
    earlier: Earlier | None = None,
    replaces: str | None = None,
    still_ours: Callable[[], bool] = lambda: False,
) -> tuple[PartRecord, str]:
    """Write the rows of ``outcome``, merged with the ``earlier`` ones, as the shard's file.

    Returns its record, to be committed by the caller, and the file's etag. ``schema`` is the
    model's (:func:`~rsembed.pipelines.shard_table.model_schema`); ``requests``: what its fetch
    cost; ``replaces``: the etag of the file it may take the place of, or ``ANY``. Where another
    file stands in the way that nobody recorded, ``still_ours()`` is asked whether the right to
    write is still held; if so that file is replaced. Raises StoreConflictError if not, and
    StoreError when the output cannot be written to.
    """
    table = shard_table(unit, model, outcome, schema)
    if earlier is not None:
        table = merge(earlier.rows.cast(schema), table, outcome.slots)
    name = output.shard_name(model.label, unit.index)
    with scratch_file(output.store, name) as path:
        write_shard_rows(table, path)
        stored = _put(output, name, path, replaces, still_ours)
    before = earlier.record if earlier else None
    record = PartRecord(
        kind="shard",
        label=model.label,
        index=unit.index,
        name=name,
        first_seq=int(unit.shard.seq[0]),
        rows=table.num_rows,
        bytes=stored.bytes,
        sha256=stored.sha256,
        counts=status_counts(table),
        failures=_failures(unit, outcome, before),
        requests=requests + (before.requests if before else 0),
        batch_size=_halved(model, outcome) or (before.batch_size if before else None),
    )
    return record, stored.etag


def _put(output: RunOutput, name: str, path: Path, replaces: str | None, still_ours: Callable[[], bool]) -> Stored:
    try:
        return output.store.put(name, path, replaces=replaces)
    except StoreConflictError as exc:
        if not still_ours():
            raise
        return output.store.put(name, path, replaces=exc.etag or None)


def earlier_rows(output: RunOutput, shape: RunShape, record: PartRecord) -> Earlier:
    """What was there of the shard of ``record``: in its own file, or in the part it was compacted into.

    Raises LostShardError when it is nowhere, StoreError when the output cannot be read.
    """
    rows = recorded_rows(output.store, record)
    if rows is None:
        name = output.part_name(record.label, record.index // shape.shards_per_part)
        rows = _rows_in_part(output, name, record.first_seq, record.rows)
    if rows is None:
        raise LostShardError(
            f"{output.store.url}: the rows of shard {record.index} of {record.label} are nowhere",
            record.label,
            record.index,
        )
    return Earlier(record, rows)


def _rows_in_part(output: RunOutput, name: str, first_seq: int, count: int) -> pa.Table | None:
    try:
        with contextlib.closing(PartRows(output.store, name)) as part:
            rows = part.slice(part.seq.index(first_seq).as_py(), count)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    return rows if rows.column("seq").to_pylist() == list(range(first_seq, first_seq + count)) else None


def _failures(unit: FetchUnit, outcome: ShardOutcome, before: PartRecord | None) -> tuple[FailureRecord, ...]:
    """Who failed now, and who failed before and was not asked again."""
    first = int(unit.shard.seq[0])
    again = set(outcome.slots)
    kept = [failure for failure in (before.failures if before else ()) if failure.seq - first not in again]
    return tuple(sorted([*kept, *failure_records(unit.shard, outcome)], key=lambda failure: failure.seq))


def _halved(model: ModelPlan, outcome: ShardOutcome) -> int | None:
    """The batch size that memory forced on a shard; None when it was the planned one."""
    return None if outcome.batch_size == model.batch_size else outcome.batch_size
