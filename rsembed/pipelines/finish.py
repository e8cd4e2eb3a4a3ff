"""The end of a run: few large parts, and the files that say what is in them.

``manifest.json``, ``parts.parquet`` and ``failures.parquet`` depend on the request and its
inputs only; whatever depends on timing goes to ``report.json``. The manifest is written last.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsembed.core.errors import ExportError
from rsembed.core.patch import Json
from rsembed.pipelines.checkpoint import PartRecord
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.plan import FORMAT_VERSION, RunPlan
from rsembed.pipelines.run_state import RunState
from rsembed.providers.collections import imagery_attribution
from rsembed.writers.atomic import atomic_path, sha256_file, write_json
from rsembed.writers.dataset import write_tables
from rsembed.writers.npz import write_npz

logger = logging.getLogger(__name__)

_FAILURES = pa.schema(
    [
        ("model", pa.string()), ("id", pa.string()), ("row", pa.int64()), ("seq", pa.int64()), ("stage", pa.string()),
        ("error_class", pa.string()), ("message", pa.string()),
    ]
)  # fmt: skip
_PARTS = pa.schema(
    [
        ("model", pa.string()), ("name", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)  # fmt: skip


def finish_run(
    state: RunState,
    folder: OutputFolder,
    plan: RunPlan,
    schemas: Mapping[str, pa.Schema],
    *,
    description: Mapping[str, Json],
    fingerprint: str,
    npz: bool,
) -> None:
    """Compact every model's shards and write the run's own files; may be repeated after a crash."""
    labels = [model.label for model in plan.models]
    for label in labels:
        for part in state.parts_to_compact(label):
            _compact(state, folder, label, part, schemas[label])
        _remove_shards(folder, label)
        _check_listing(state, folder, label)
    parts = [record for label in labels for record in state.parts_of(label)]
    _write_table(folder, "parts.parquet", _PARTS, [_part_row(record) for record in parts])
    failures = [row for label in labels for row in _failure_rows(state, label)]
    _write_table(folder, "failures.parquet", _FAILURES, failures)
    if npz:
        for label in labels:
            files = [folder.root / record.name for record in state.parts_of(label)]
            write_npz(files, folder.root / f"{label}.npz", folder.tmp)
    manifest = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "request": dict(description),
        "counts": {label: status_totals(state, label) for label in labels},
        "licences": {model.label: _licence(model.embedder.card.licence) for model in plan.models},
        "attribution": _attribution(plan, [folder.root / record.name for record in parts]),
    }
    write_json(folder.manifest, manifest, folder.tmp)


def _compact(state: RunState, folder: OutputFolder, label: str, part: int, schema: pa.Schema) -> None:
    shards = state.shape.part_shards(part)
    relative = folder.part_name(label, part)
    final = folder.root / relative
    with atomic_path(final, folder.tmp) as path:
        rows = write_tables((state.shard_rows(label, shard) for shard in shards), schema, path)
        expected = sum(state.shape.shard_rows(shard) for shard in shards)
        if rows != expected:
            raise ExportError(f"{relative}: {rows} rows were gathered, {expected} expected; export into a new folder")
        counts: Counter[str] = Counter()
        for shard in shards:
            record = state.shard(label, shard)
            counts.update(record.counts if record else {})
        first = shards.start * state.shape.shard_size
        size, sha256 = path.stat().st_size, sha256_file(path)
        # Journalled before the rename: whichever of the two files a crash leaves, the journal knows it.
        state.commit(PartRecord("part", label, part, relative, first, rows, size, sha256, dict(counts)))


def _remove_shards(folder: OutputFolder, label: str) -> None:
    shards = folder.root / label / "_shards"
    if shards.is_dir():
        for path in shards.iterdir():
            path.unlink()
        shards.rmdir()


def _check_listing(state: RunState, folder: OutputFolder, label: str) -> None:
    """Fail when the files on disk are not the files of the journal."""
    listed = {f"{label}/{path.name}" for path in (folder.root / label).glob("part-*.parquet")}
    known = {record.name for record in state.parts_of(label)}
    if listed != known:
        raise ExportError(
            f"{folder.root / label}: files and journal differ: {', '.join(sorted(listed ^ known)[:5])}; "
            "move foreign files away and run the same command again"
        )


def _part_row(record: PartRecord) -> dict[str, object]:
    return {
        "model": record.label, "name": record.name, "rows": record.rows, "bytes": record.bytes, "sha256": record.sha256
    }  # fmt: skip


def _failure_rows(state: RunState, label: str) -> Iterable[dict[str, object]]:
    for record in state.records_of(label):
        for failure in record.failures:
            yield {
                "model": label,
                "id": failure.id,
                "row": failure.row,
                "seq": failure.seq,
                "stage": failure.stage,
                "error_class": failure.error_class,
                "message": failure.message,
            }


def _write_table(folder: OutputFolder, name: str, schema: pa.Schema, rows: Sequence[Mapping[str, object]]) -> None:
    with atomic_path(folder.root / name, folder.tmp) as path:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")


def status_totals(state: RunState, label: str) -> dict[str, int]:
    """Rows of a label by status."""
    totals: Counter[str] = Counter()
    for record in state.records_of(label):
        totals.update(record.counts)
    return dict(totals)


def _licence(licence: object) -> dict[str, Json]:
    return {name: str(getattr(licence, name)) for name in ("name", "commercial", "attribution")}


def _attribution(plan: RunPlan, files: Sequence[Path]) -> list[str]:
    """What has to be said of the imagery: its source and the years it was taken in."""
    years: set[int] = set()
    for file in files:
        table = pq.read_table(file, columns=["first_date", "last_date"])
        for column in table.columns:
            years.update(year for year in pc.unique(pc.year(column)).to_pylist() if year is not None)
    collections = dict.fromkeys(group.recipe.collection for group in plan.groups)
    return list(dict.fromkeys(filter(None, (imagery_attribution(c, sorted(years)) for c in collections))))


def write_report(folder: OutputFolder, report: Mapping[str, Json]) -> None:
    """Timings and what was spent: everything about a run that another run of it need not repeat."""
    written = dict(report) | {"written_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}
    write_json(folder.root / "report.json", written, folder.tmp)
