"""What a hidden run found for each item, shard by shard: vectors, facts about the imagery, and the pixels."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsembed.core.embedding import RowStatus
from rsembed.core.fetching import Grid
from rsembed.core.patch import Patch
from rsembed.pipelines.fetch_unit import FetchUnit, RowFailure
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.plan import FetchGroup, ModelPlan, RunPlan
from rsembed.pipelines.rows.table import RowTable
from rsembed.pipelines.run_output import PartRows
from rsembed.writers.vectors import VectorReader

_FACTS = ("status", "n_images", "first_date", "last_date", "valid_fraction", "frame_dates", "scene_ids", "epsg")
Failures = Mapping[tuple[str, int], RowFailure]
"""(label, seq) -> why that row failed."""


@dataclass(frozen=True)
class ItemInput:
    """The pixels that one model is given of one item.

    ``shape``: (C, H, W), or (T, C, H, W) of a series. ``shares``: equal for models that are given the same.
    ``grid``: where they lie.
    """

    model: ModelPlan
    grid: Grid
    shape: tuple[int, ...]
    shares: tuple[object, ...]
    _pack: InputPack
    _key: str

    @property
    def is_imagery(self) -> bool:
        """Whether they are pixels of a sensor, rather than those of a product, which are the embedding itself."""
        return self.model.embedder.card.kind != "precomputed"

    def patch(self) -> Patch | None:
        """What was fetched, for this model; None where nothing was."""
        found = self._pack.get(self._key)
        return None if found is None else found.select(self.model.bands).crop(self.grid)

    def array(self) -> NDArray[np.float32] | None:
        """Raw values, float32 of ``shape``, NaN where nothing is valid; None without any imagery."""
        patch = self.patch()
        if patch is None or patch.is_empty:
            return None
        values = np.where(patch.valid_tchw, patch.values_tchw, np.float32(np.nan))
        return np.ascontiguousarray(values[0] if len(self.shape) == 3 else values)


@dataclass(frozen=True)
class ModelOutcome:
    """What became of one item for one model. ``vector``: (D,) or (D, h, w) as stored, None where there is none.

    ``cells``: affine of a map's cells, where it is one.
    """

    model: ModelPlan
    status: RowStatus
    vector: NDArray[Any] | None
    n_images: int
    first_date: dt.date | None
    last_date: dt.date | None
    valid_fraction: float | None
    frame_dates: tuple[dt.date | None, ...]
    scene_ids: tuple[str, ...]
    epsg: int | None
    cells: tuple[float, ...] | None
    failure: RowFailure | None
    input: ItemInput


@dataclass(frozen=True)
class ItemOutcome:
    """One item: its number and what became of it for each model, in the order of the request."""

    index: int
    models: tuple[ModelOutcome, ...]


class HiddenRun:
    """A finished dataset run (or, without embeddings, just its pixels) whose row ids are the items' numbers."""

    def __init__(self, plan: RunPlan, table: RowTable, folder: OutputFolder, *, failures: Failures) -> None:
        self.plan = plan
        self.table = table
        self.folder = folder
        self._failures = failures
        self._parts: dict[str, PartRows] = {}
        self._readers: dict[str, VectorReader] = {}

    def close(self) -> None:
        """Close the files that are open."""
        for part in self._parts.values():
            part.close()
        self._parts.clear()

    @property
    def n_shards(self) -> int:
        """Shards of the run."""
        return self.table.n_shards(self.plan.config.shard_size)

    def unit(self, group: FetchGroup, index: int) -> FetchUnit:
        """All rows of a shard, for all models of ``group``."""
        shard = self.table.shard(index, self.plan.config.shard_size)
        wanted = {model.label: tuple(range(len(shard))) for model in group.models}
        return FetchUnit(group, index, shard, wanted, self.plan.group_digest(group), self.plan.config.buffer_m)

    def pack(self, group: FetchGroup, index: int) -> InputPack:
        """The fetched pixels of a shard; close it."""
        return InputPack(self.folder.pack(f"group-{group.index}", index))

    def failed(self, group: FetchGroup, index: int, slot: int) -> bool:
        """Whether nothing could be fetched of a row."""
        seq = index * self.plan.config.shard_size + slot
        found = [self._failures.get((model.label, seq)) for model in group.models]
        return any(failure is not None and failure.stage == "fetch" for failure in found)

    def drop_packs(self, index: int) -> None:
        """Remove the pixels of a shard."""
        for group in self.plan.groups:
            self.folder.pack(f"group-{group.index}", index).unlink(missing_ok=True)

    def item_numbers(self, index: int) -> list[int]:
        """The items of a shard."""
        return [int(i) for i in self.table.shard(index, self.plan.config.shard_size).ids.to_pylist()]

    def items(self, index: int, slots: Sequence[int]) -> Iterator[ItemOutcome]:
        """The items at ``slots`` of a shard; their pixels can be read until the next one is asked for."""
        with contextlib.ExitStack() as stack:
            inputs = {
                model.label: partial(_input, model, unit, pack, self._places(unit, model))
                for group in self.plan.groups
                for unit, pack in [(self.unit(group, index), stack.enter_context(self.pack(group, index)))]
                for model in group.models
            }
            numbers, first = self.item_numbers(index), index * self.plan.config.shard_size
            for slot in slots:
                found = []
                for model in self.plan.models:
                    label, given = model.label, inputs[model.label](slot)
                    failure = self._failures.get((label, first + slot))
                    row = self._row(label, index, slot)
                    found.append(
                        _pixels_only(model, given, failure)
                        if row is None
                        else _embedded(model, row, given, failure, self._vector(label, row))
                    )
                yield ItemOutcome(numbers[slot], tuple(found))

    def inputs(self, index: int) -> dict[str, list[tuple[tuple[int, ...], tuple[object, ...]]]]:
        """Label -> ``shape`` and ``shares`` of each row's pixels in a shard; nothing is read."""
        found = {}
        for group in self.plan.groups:
            unit = self.unit(group, index)
            for model in group.models:
                grids = self._places(unit, model)
                found[model.label] = [_extent(model, unit, grids[slot], slot) for slot in range(len(grids))]
        return found

    def vector_shapes(self, label: str) -> set[tuple[int, ...]]:
        """The shapes of a model's vectors that are there."""
        config = self.plan.config
        found: set[tuple[int, ...]] = set()
        for part in range(-(-self.n_shards // config.shards_per_part)):
            with self.folder.store.open(self.folder.part_name(label, part)) as handle:
                file = pq.ParquetFile(handle)
                if "grid_shape" not in file.schema_arrow.names:
                    return {(int(file.schema_arrow.field("embedding").type.list_size),)}
                shapes = file.read(columns=["grid_shape"]).column(0).drop_null().to_pylist()
                found.update(tuple(shape) for shape in shapes)
        return found

    def _row(self, label: str, index: int, slot: int) -> pa.Table | None:
        """One row of a model's dataset; None where nothing was embedded."""
        config = self.plan.config
        if not config.save_embeddings:
            return None
        part, place = divmod(index, config.shards_per_part)
        name = self.folder.part_name(label, part)
        if label not in self._parts or self._parts[label].name != name:
            if label in self._parts:
                self._parts.pop(label).close()
            self._parts[label] = PartRows(self.folder.store, name)
        return self._parts[label].slice(place * config.shard_size + slot, 1)

    def _vector(self, label: str, row: pa.Table) -> NDArray[Any] | None:
        """The vector or map of one row."""
        column = row.column("embedding").combine_chunks()
        if column.null_count:
            return None
        reader = self._readers.get(label) or self._readers.setdefault(label, VectorReader(row.schema))
        if reader.dim is None:
            return np.ascontiguousarray(reader.map(column[0], row.column("grid_shape")[0].as_py()))
        found: NDArray[Any] = reader.vectors(column)[0]
        return found

    def _places(self, unit: FetchUnit, model: ModelPlan) -> Sequence[Grid]:
        """What each row of ``unit`` is for ``model``, as pixels of what was fetched."""
        prints = unit.footprints[model.label]
        return [unit.grids[i].centre_crop(p.fetch_height, p.fetch_width) for i, p in enumerate(prints)]


def _input(model: ModelPlan, unit: FetchUnit, pack: InputPack, grids: Sequence[Grid], slot: int) -> ItemInput:
    shape, shares = _extent(model, unit, grids[slot], slot)
    return ItemInput(model, grids[slot], shape, shares, pack, unit.key(slot))


def _extent(model: ModelPlan, unit: FetchUnit, grid: Grid, slot: int) -> tuple[tuple[int, ...], tuple[object, ...]]:
    """Shape of a row's pixels, and what they depend on apart from the row."""
    frames = len(unit.group.bins(unit.shard.window(slot)))
    shape = (len(model.bands), grid.height, grid.width)
    shares = (unit.group.index, model.bands, grid.height, grid.width)
    return (shape if frames == 1 else (frames, *shape)), shares


def _embedded(
    model: ModelPlan,
    row: pa.Table,
    given: ItemInput,
    failure: RowFailure | None,
    vector: NDArray[Any] | None,
) -> ModelOutcome:
    """The outcome that a row of the dataset tells."""
    fact = row.select(_FACTS).to_pylist()[0]
    return ModelOutcome(
        model=model,
        status=RowStatus(fact["status"]),
        vector=vector,
        n_images=fact["n_images"] or 0,
        first_date=fact["first_date"],
        last_date=fact["last_date"],
        valid_fraction=fact["valid_fraction"],
        frame_dates=tuple(fact["frame_dates"] or ()),
        scene_ids=tuple(fact["scene_ids"] or ()),
        epsg=fact["epsg"],
        cells=_cells(row),
        failure=failure,
        input=given,
    )


def _cells(row: pa.Table) -> tuple[float, ...] | None:
    if "grid_transform" not in row.schema.names:
        return None
    found = row.column("grid_transform")[0].as_py()
    return None if found is None else tuple(found)


def _pixels_only(model: ModelPlan, given: ItemInput, failure: RowFailure | None) -> ModelOutcome:
    """The outcome of a row of which only the pixels were asked for."""
    patch = given.patch()
    frames = () if patch is None else patch.frames
    firsts = [frame.first_date for frame in frames if frame.first_date is not None]
    lasts = [frame.last_date for frame in frames if frame.last_date is not None]
    status = RowStatus.NO_DATA if patch is not None and patch.is_empty else RowStatus.OK
    return ModelOutcome(
        model=model,
        status=RowStatus.FAILED if patch is None else status,
        vector=None,
        n_images=0 if patch is None else patch.n_images,
        first_date=min(firsts, default=None),
        last_date=max(lasts, default=None),
        valid_fraction=None if patch is None else patch.valid_fraction(),
        frame_dates=tuple(frame.date if frame.n_images else None for frame in frames),
        scene_ids=tuple(sorted({scene for frame in frames for scene in frame.scene_ids})),
        epsg=None if patch is None else patch.grid.epsg,
        cells=None,
        failure=failure,
        input=given,
    )


def recorded_failures(folder: OutputFolder) -> dict[tuple[str, int], RowFailure]:
    """Why rows of a finished dataset run failed."""
    with folder.store.open("failures.parquet") as handle:
        rows = pq.read_table(handle).to_pylist()
    return {(row["model"], row["seq"]): RowFailure(row["stage"], row["error_class"], row["message"]) for row in rows}
