"""What of a run stands in its output, read from the files themselves: for a ledger that was lost.

A file says which rows it holds, how each ended and which run it belongs to. Why a row failed is
in ``failures.parquet`` where the run had ended, else it is gone with the ledger.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rsembed.core.embedding import RowStatus
from rsembed.core.errors import ExportError
from rsembed.pipelines.checkpoint import FailureRecord, PartRecord
from rsembed.pipelines.run_output import RUN_FILE, RunOutput
from rsembed.pipelines.run_state import RunShape
from workers.ledger.records import RunRecord

logger = logging.getLogger(__name__)

_FAILURES = "failures.parquet"
_NUMBER = re.compile(r"(?:part|shard)-(\d+)\.parquet")
_CHUNK = 8 << 20
_LOST = ("infer", "unknown", "why it failed was lost with the ledger")

Reasons = Mapping[tuple[str, int], tuple[str, str, str]]


def output_records(output: RunOutput, run: RunRecord) -> Iterator[PartRecord]:
    """Records of everything of ``run`` that stands in ``output``, as they would have been committed.

    For each label: the shards inside each part, then the part, then shards with a file of their
    own. Files of another run, unreadable ones and such of another size are left out, with a
    warning. Raises ExportError when the output is another run's.
    """
    _check_same_run(output, run)
    reasons = _read_reasons(output)
    shape = RunShape(run.n_rows, run.shard_size, run.shards_per_part)
    for model in run.models:
        label = model.label
        for name, part in _numbered(output, output.part_name(label, 0), shape.n_parts):
            shards = shape.part_shards(part)
            yield from _file_records(output, run, shape, name, shards, reasons, part=part)
        for name, shard in _numbered(output, output.shard_name(label, 0), shape.n_shards):
            yield from _file_records(output, run, shape, name, range(shard, shard + 1), reasons)


def _check_same_run(output: RunOutput, run: RunRecord) -> None:
    found = output.read(RUN_FILE)
    try:
        known = None if found is None else json.loads(found)["fingerprint"]
    except (ValueError, KeyError, TypeError) as exc:
        raise ExportError(f"{run.output}/{RUN_FILE} is damaged: {exc}") from exc
    if known != run.fingerprint:
        raise ExportError(f"{run.output} holds {'no run' if known is None else 'another run'}, not run {run.id}")


def _numbered(output: RunOutput, first: str, count: int) -> Iterator[tuple[str, int]]:
    """(name, number) of the files beside ``first`` that are numbered as it is."""
    folder = first.rpartition("/")[0] + "/"
    for blob in output.store.list(folder):
        found = _NUMBER.fullmatch(blob.name.removeprefix(folder))
        if found and int(found[1]) < count:
            yield blob.name, int(found[1])


def _file_records(
    output: RunOutput, run: RunRecord, shape: RunShape, name: str, shards: range, reasons: Reasons,
    *, part: int | None = None,
) -> list[PartRecord]:  # fmt: skip
    """A record for each of the ``shards`` in file ``name``, and one for the file itself if it is a part."""
    label = name.split("/", maxsplit=1)[0]
    try:
        with output.store.open(name) as handle:
            size, sha256 = _measure(handle)
            table = _read_rows(handle, run, sum(shape.shard_rows(shard) for shard in shards))
    except (ExportError, pa.ArrowException, OSError) as exc:
        logger.warning("file_left_out", extra={"file": name, "error": str(exc)})
        return []
    records, offset = [], 0
    for shard in shards:
        rows = table.slice(offset, shape.shard_rows(shard))
        offset += rows.num_rows
        own = part is None
        records.append(
            PartRecord(
                kind="shard",
                label=label,
                index=shard,
                name=name if own else output.shard_name(label, shard),
                first_seq=shard * shape.shard_size,
                rows=rows.num_rows,
                # A shard inside a part has no file any more.
                bytes=size if own else 0,
                sha256=sha256 if own else "",
                counts=_counts(rows),
                failures=_failures(label, rows, reasons),
            )
        )
    if part is not None:
        first = shards.start * shape.shard_size
        counts = _counts(table)
        records.append(PartRecord("part", label, part, name, first, table.num_rows, size, sha256, counts))
    return records


def _measure(handle: BinaryIO) -> tuple[int, str]:
    """Bytes and sha256 of an open file."""
    digest, size = hashlib.sha256(), 0
    while chunk := handle.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    handle.seek(0)
    return size, digest.hexdigest()


def _read_rows(handle: BinaryIO, run: RunRecord, expected: int) -> pa.Table:
    file = pq.ParquetFile(handle)
    about = json.loads((file.schema_arrow.metadata or {}).get(b"rsembed", b"{}"))
    if about.get("fingerprint") != run.fingerprint:
        raise ExportError("it belongs to another run")
    if file.metadata.num_rows != expected:
        raise ExportError(f"it has {file.metadata.num_rows} rows instead of {expected}")
    return file.read(columns=["id", "row", "seq", "status"])


def _counts(rows: pa.Table) -> dict[str, int]:
    found = Counter(rows.column("status").to_pylist())
    return {status.value: found.get(status.value, 0) for status in RowStatus}


def _failures(label: str, rows: pa.Table, reasons: Reasons) -> tuple[FailureRecord, ...]:
    found = []
    for row in rows.to_pylist() if _counts(rows)[RowStatus.FAILED.value] else ():
        if row["status"] == RowStatus.FAILED.value:
            stage, error_class, message = reasons.get((label, row["seq"]), _LOST)
            found.append(FailureRecord(row["row"], row["seq"], row["id"], stage, error_class, message))
    return tuple(found)


def _read_reasons(output: RunOutput) -> Reasons:
    """(label, seq) -> stage, class and message, as an earlier end of the run wrote them."""
    try:
        with output.store.open(_FAILURES) as handle:
            rows = pq.read_table(handle).to_pylist()
    except FileNotFoundError:
        return {}
    return {(row["model"], row["seq"]): (row["stage"], row["error_class"], row["message"]) for row in rows}
