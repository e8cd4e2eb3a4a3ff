"""From a shard and one model's outcome to the rows of its dataset."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsembed.core.embedding import RowStatus
from rsembed.core.errors import ExportError
from rsembed.core.patch import Json
from rsembed.pipelines.checkpoint import FailureRecord
from rsembed.pipelines.fetch_unit import FetchUnit
from rsembed.pipelines.inference import RowRecord, ShardOutcome, map_cells
from rsembed.pipelines.plan import ModelPlan, RunPlan
from rsembed.pipelines.rows.table import RowShard
from rsembed.tools.spatial import GridArray
from rsembed.writers.dataset import PartColumns, build_part, part_schema
from rsembed.writers.vectors import quantization_json

_UNKNOWN = RowRecord(RowStatus.FAILED)


def model_schema(plan: RunPlan, model: ModelPlan, carried: pa.Schema, fingerprint: str) -> pa.Schema:
    """Schema and file metadata of one model's dataset."""
    card = model.embedder.card
    metadata: dict[str, Json] = {
        "fingerprint": fingerprint,
        "model": model.describe(),
        "title": card.title,
        "paper": card.paper,
        "licence": card.licence.name,
        "commercial": card.licence.commercial,
        "attribution": card.licence.attribution,
    }
    if plan.config.dtype == "int8":
        if model.steps is None:
            raise ExportError(f"{model.label}: the steps of int8 are not fixed yet")
        metadata |= {"quantization": quantization_json(np.array(model.steps, dtype=np.float32))}
    maps = model.embedder.config.output.mode == "grid"
    return part_schema(model.embedder.dim, plan.config.dtype, carried, metadata, maps=maps)


def shard_table(unit: FetchUnit, model: ModelPlan, outcome: ShardOutcome, schema: pa.Schema) -> pa.Table:
    """All rows of the unit's shard; slots that were not asked for are placeholders (see :func:`merge`)."""
    shard = unit.shard
    records = dict(zip(outcome.slots, outcome.records, strict=True))
    vectors = dict(zip(outcome.slots, outcome.vectors, strict=True))
    rows = [records.get(slot, _UNKNOWN) for slot in range(len(shard))]
    ground = _ground(unit, model)
    box = shard.kind == 1
    bbox = np.stack([shard.lon, shard.lat, shard.lon, shard.lat], axis=1)
    bbox[box] = shard.boxes[box]
    columns = PartColumns(
        ids=shard.ids,
        row=shard.row,
        seq=shard.seq,
        start=shard.start,
        end=shard.end,
        status=[record.status.value for record in rows],
        lon=shard.lon,
        lat=shard.lat,
        geometry=shard.geometry,
        footprints=ground.footprints(),
        bbox_n4=bbox,
        epsg=ground.epsg,
        n_images=[record.n_images for record in rows],
        first_date=[record.first_date for record in rows],
        last_date=[record.last_date for record in rows],
        valid_fraction=[record.valid_fraction for record in rows],
        frame_dates=[record.frame_dates for record in rows],
        scene_ids=[record.scene_ids for record in rows],
        vectors=[vectors.get(slot) for slot in range(len(shard))],
        carried=shard.carried,
        cells=[map_cells(unit, model, outcome, slot) for slot in range(len(shard))]
        if outcome.cells
        else [None] * len(shard),
    )
    return build_part(columns, schema)


def _ground(unit: FetchUnit, model: ModelPlan) -> GridArray:
    """The ground each vector stands for: what was asked, or the whole input where the network pools itself."""
    prints = unit.footprints[model.label]
    if model.embedder.own_vector:
        height, width = [p.fetch_height for p in prints], [p.fetch_width for p in prints]
    else:
        height, width = [p.asked_height for p in prints], [p.asked_width for p in prints]
    return unit.grids.centre_crops(np.array(height), np.array(width))


def merge(old: pa.Table, new: pa.Table, slots: tuple[int, ...]) -> pa.Table:
    """``old`` with the rows at ``slots`` taken from ``new``; both hold the whole shard in order."""
    taken = np.arange(old.num_rows)
    taken[list(slots)] += old.num_rows
    return pa.concat_tables([old, new]).take(pa.array(taken)).combine_chunks()


def status_counts(table: pa.Table) -> dict[str, int]:
    """Rows by status, every status named."""
    counted = {entry["values"].as_py(): entry["counts"].as_py() for entry in pc.value_counts(table.column("status"))}
    return {status.value: int(counted.get(status.value, 0)) for status in RowStatus}


def failure_records(shard: RowShard, outcome: ShardOutcome) -> tuple[FailureRecord, ...]:
    """The rows of ``outcome`` that failed, in order."""
    ids = shard.ids
    return tuple(
        FailureRecord(
            row=int(shard.row[slot]),
            seq=int(shard.seq[slot]),
            id=ids[slot].as_py(),
            stage=record.failure.stage,
            error_class=record.failure.error_class,
            message=record.failure.message,
        )
        for slot, record in zip(outcome.slots, outcome.records, strict=True)
        if record.status is RowStatus.FAILED and record.failure is not None
    )
