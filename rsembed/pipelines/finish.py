"""The end of a run: few large parts, and the files that say what is in them.

``manifest.json``, ``parts.parquet`` and ``failures.parquet`` depend on the request and its
inputs only; whatever depends on timing goes to ``report.json``. The manifest is written last.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsembed.core.errors import ExportError
from rsembed.core.patch import Json
from rsembed.pipelines.checkpoint import PartRecord
from rsembed.pipelines.plan import FORMAT_VERSION, RunPlan
from rsembed.pipelines.run_output import MANIFEST, QUANTIZATION, REPORT, RunOutput
from rsembed.pipelines.run_state import RunState
from rsembed.providers.collections import imagery_attribution
from rsembed.writers.atomic import json_text
from rsembed.writers.dataset import write_tables
from rsembed.writers.npz import write_npz
from rsembed.writers.store import Stored, scratch_file
from rsembed.writers.zarr_store import write_zarr

_PARTS_FILE, _FAILURES_FILE = "parts.parquet", "failures.parquet"
_RUN_FILES = (_PARTS_FILE, _FAILURES_FILE, MANIFEST)

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
    output: RunOutput,
    plan: RunPlan,
    schemas: Mapping[str, pa.Schema],
    *,
    description: Mapping[str, Json],
    fingerprint: str,
    npz: bool,
    zarr: bool | None = None,
    before_write: Callable[[], None] = lambda: None,
) -> None:
    """Compact every model's shards and write the run's own files; may be repeated after a crash.

    ``npz``, ``zarr``: what is written beside the datasets, as in DatasetTarget.
    ``before_write`` is called before each file and stops the rest by raising. A file takes the
    place only of what stood there when this began: StoreConflictError says that somebody else
    finishes the same run. Raises LostShardError for a shard that has to be done again.
    """
    labels = [model.label for model in plan.models]
    names = [*_RUN_FILES, *(f"{label}{end}" for label in labels for end in (".npz", ".zarr/", "/"))]
    writer = _Writer(output, names, before_write)
    try:
        for label in labels:
            for part in state.parts_to_compact(label):
                _compact(state, writer, output.part_name(label, part), label, part, schemas[label])
            output.store.remove(f"{label}/_shards/")
            _check_listing(state, output, label)
    finally:
        state.close()
    parts = [record for label in labels for record in state.parts_of(label)]
    writer.write(_PARTS_FILE, partial(_fill_table, _PARTS, [_part_row(record) for record in parts]))
    failures = [row for label in labels for row in _failure_rows(state, label)]
    writer.write(_FAILURES_FILE, partial(_fill_table, _FAILURES, failures))
    for label in labels:
        files = [record.name for record in state.parts_of(label)]
        # What an earlier call was asked for must not tell of fewer rows than the dataset.
        if npz or writer.stood(f"{label}.npz"):
            writer.write(f"{label}.npz", partial(write_npz, output.store, files))
        if wants_zarr(plan, zarr) or writer.stood(f"{label}.zarr/zarr.json"):
            write_zarr(output.store, files, partial(writer.put, f"{label}.zarr"))
    manifest = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "request": dict(description),
        "counts": {label: status_totals(state, label) for label in labels},
        "licences": {model.label: _licence(model.embedder.card.licence) for model in plan.models},
        "attribution": _attribution(plan, output, [record.name for record in parts]),
    }
    if (fixed := output.read(QUANTIZATION)) is not None:
        # What the steps cost; they themselves stand in the parts.
        manifest["quantization"] = {
            label: {name: value for name, value in facts.items() if name != "step"}
            for label, facts in json.loads(fixed).items()
        }
    text = json_text(manifest).encode()
    writer.write(MANIFEST, lambda path: path.write_bytes(text))


def wants_zarr(plan: RunPlan, asked: bool | None) -> bool:
    """Whether a run writes Zarr stores: as ``asked``, or where its rows are maps."""
    return any(m.embedder.config.output.mode == "grid" for m in plan.models) if asked is None else asked


class _Writer:
    """Puts files in place of what stood under ``names`` (files and folders) when the writer was made."""

    def __init__(self, output: RunOutput, names: Sequence[str], before_write: Callable[[], None]) -> None:
        self._store = output.store
        self._before_write = before_write
        self._etags = {blob.name: blob.etag for name in names for blob in self._store.list(name)}

    def write(self, name: str, fill: Callable[[Path], object]) -> Stored:
        """Let ``fill`` write a file and put it in its place."""
        self._before_write()
        with scratch_file(self._store, name) as path:
            fill(path)
            self._before_write()
            return self._store.put(name, path, replaces=self._etags.get(name))

    def put(self, folder: str, name: str, data: bytes) -> Stored:
        """Put ``data`` in its place, the file ``name`` in ``folder``."""
        self._before_write()
        path = f"{folder}/{name}"
        return self._store.put(path, data, replaces=self._etags.get(path))

    def stood(self, name: str) -> bool:
        """Whether there was a file ``name``."""
        return name in self._etags


def _compact(state: RunState, writer: _Writer, name: str, label: str, part: int, schema: pa.Schema) -> None:
    shards, expected = state.shape.part_shards(part), state.shape.part_seq(part)

    def fill(path: Path) -> None:
        rows = write_tables((state.shard_rows(label, shard) for shard in shards), schema, path)
        if rows != len(expected):
            raise ExportError(f"{name}: {rows} rows were gathered, {len(expected)} expected; export into a new folder")

    stored = writer.write(name, fill)
    counts: Counter[str] = Counter()
    for shard in shards:
        record = state.shard(label, shard)
        counts.update(record.counts if record else {})
    size = len(expected)
    state.commit(PartRecord("part", label, part, name, expected.start, size, stored.bytes, stored.sha256, dict(counts)))


def _fill_table(schema: pa.Schema, rows: Sequence[Mapping[str, object]], path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")


def _check_listing(state: RunState, output: RunOutput, label: str) -> None:
    """Fail when the files that stand there are not those that were recorded."""
    found = [blob for blob in output.store.list(f"{label}/") if blob.name.startswith(f"{label}/part-")]
    listed = {(blob.name, blob.bytes) for blob in found if blob.name.endswith(".parquet")}
    known = {(record.name, record.bytes) for record in state.parts_of(label)}
    if listed != known:
        names = sorted({name for name, _ in listed ^ known})
        raise ExportError(
            f"{output.store.url}/{label}: files and records differ: {', '.join(names[:5])}; "
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


def status_totals(state: RunState, label: str) -> dict[str, int]:
    """Rows of a label by status."""
    totals: Counter[str] = Counter()
    for record in state.records_of(label):
        totals.update(record.counts)
    return dict(totals)


def _licence(licence: object) -> dict[str, Json]:
    return {name: str(getattr(licence, name)) for name in ("name", "commercial", "attribution")}


def _attribution(plan: RunPlan, output: RunOutput, names: Sequence[str]) -> list[str]:
    """What has to be said of the imagery: its source and the years it was taken in."""
    years: set[int] = set()
    for name in names:
        with output.store.open(name) as handle:
            table = pq.read_table(handle, columns=["first_date", "last_date"])
        for column in table.columns:
            years.update(year for year in pc.unique(pc.year(column)).to_pylist() if year is not None)
    collections = dict.fromkeys(group.recipe.collection for group in plan.groups)
    return list(dict.fromkeys(filter(None, (imagery_attribution(c, sorted(years)) for c in collections))))


def write_report(output: RunOutput, report: Mapping[str, Json]) -> None:
    """Timings and what was spent: everything about a run that another run of it need not repeat."""
    output.write_json(REPORT, dict(report) | {"written_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")})
