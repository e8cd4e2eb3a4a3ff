"""The compute side of a run: from the patches of a settled unit to one model's outcome for each row."""

from __future__ import annotations

import datetime as dt
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import CellGrid, RowStatus
from rsembed.core.errors import CollectionGapError
from rsembed.core.fetching import Grid
from rsembed.core.patch import Frame, Json, Patch
from rsembed.core.specs import Window
from rsembed.embedders.batching import run_slots
from rsembed.embedders.prepared import Prepared
from rsembed.pipelines.fetch_unit import FetchedUnit, FetchUnit, RowFailure
from rsembed.pipelines.plan import ModelPlan
from rsembed.tools.cells import CellLattice
from rsembed.tools.tiling import Footprint

logger = logging.getLogger(__name__)

_Summary = tuple[int, dt.date | None, dt.date | None, tuple[dt.date | None, ...], tuple[str, ...]]
MOST_PREPARING = 8
"""Threads that prepare pixels for an accelerator, at most."""


@dataclass(frozen=True)
class RowRecord:
    """What is known about one row's imagery for one model."""

    status: RowStatus
    n_images: int = 0
    first_date: dt.date | None = None
    last_date: dt.date | None = None
    valid_fraction: float | None = None
    frame_dates: tuple[dt.date | None, ...] = ()
    scene_ids: tuple[str, ...] = ()
    failure: RowFailure | None = None
    provenance: Mapping[str, Json] = field(default_factory=dict, compare=False, repr=False)
    """What the provider says of how it came by the patch."""


@dataclass(frozen=True)
class ShardOutcome:
    """One model's answers for the asked slots of a shard.

    ``records[i]`` and ``vectors[i]`` belong to ``slots[i]``; a vector is None where the status
    carries no embedding. ``cells``: slot -> where the cells of its map lie, in pixels of what the model was
    given. ``batch_size`` is smaller than planned when memory ran out.
    """

    slots: tuple[int, ...]
    records: tuple[RowRecord, ...]
    vectors: tuple[NDArray[np.float32] | None, ...]
    batch_size: int
    forwards: int
    cells: Mapping[int, CellLattice] = field(default_factory=dict)


@dataclass(frozen=True)
class RowInput:
    """What a model is given of one row: its own bands, on exactly its footprint.

    ``lon``, ``lat``: centre of the row, degrees.
    """

    patch: Patch
    footprint: Footprint
    lon: float
    lat: float
    window: Window


RowSource = Callable[[int], RowInput | RowFailure | None]
"""Slot -> its input, why there is none, or None for a slot that is not asked for."""


def unit_source(model: ModelPlan, fetched: FetchedUnit, refetch: Callable[[int], Patch]) -> RowSource:
    """The inputs of ``model`` out of a settled unit; ``refetch(slot)`` replaces a patch whose bytes are gone."""
    unit, shard = fetched.unit, fetched.unit.shard
    footprints = unit.footprints[model.label]
    wanted = frozenset(unit.wanted[model.label])

    def source(slot: int) -> RowInput | RowFailure | None:
        if slot not in wanted:
            return None
        if slot in fetched.failures:
            return fetched.failures[slot]
        patch = fetched.pack.get(fetched.keys[slot]) or refetch(slot)
        patch = patch.select(model.bands)
        footprint = footprints[slot]
        patch = patch.crop(patch.grid.centre_crop(footprint.fetch_height, footprint.fetch_width))
        return RowInput(patch, footprint, float(shard.lon[slot]), float(shard.lat[slot]), shard.window(slot))

    return source


def map_cells(unit: FetchUnit, model: ModelPlan, outcome: ShardOutcome, slot: int) -> CellGrid | None:
    """Where the map of the row at ``slot`` lies; None where it has none."""
    lattice = outcome.cells.get(slot)
    if lattice is None:
        return None
    vector = outcome.vectors[outcome.slots.index(slot)]
    assert vector is not None
    footprint = unit.footprints[model.label][slot]
    seen = unit.grids[slot].centre_crop(footprint.fetch_height, footprint.fetch_width)
    return lattice.on(seen, (vector.shape[1], vector.shape[2]))


class InferenceEngine:
    """Runs loaded models over rows in fixed slots (see ``embedders/batching.py``).

    ``pad``: zero-fill the last batch (runs). ``should_stop`` is asked between two batches. Where the
    device is no CPU, rows are taken from their source by several threads at once.
    """

    def __init__(
        self,
        *,
        threads: int,
        min_valid_fraction: float,
        pad: bool = True,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._threads = threads
        self._min_valid = min_valid_fraction
        self._pad = pad
        self._should_stop = should_stop

    def run(self, model: ModelPlan, n_slots: int, source: RowSource) -> ShardOutcome:
        """Embed the slots that ``source`` has; a row's failure is recorded, never raised."""
        model.embedder.load(model.device)
        model.embedder.set_threads(self._threads)
        records: dict[int, RowRecord] = {}

        def load(slot: int) -> list[Prepared] | None:
            row = source(slot)
            if row is None:
                return None
            if isinstance(row, RowFailure):
                gap = row.error_class == CollectionGapError.error_class
                records[slot] = RowRecord(RowStatus.COLLECTION_GAP if gap else RowStatus.FAILED, failure=row)
                return None
            records[slot] = self._record(row)
            if not records[slot].status.has_embedding:
                return None
            return model.embedder.prepare_patch(row.patch, row.footprint, lon=row.lon, lat=row.lat, window=row.window)

        results = run_slots(
            model.embedder,
            load,
            n_slots,
            batch_size=model.batch_size,
            pad=self._pad,
            threads=_preparing_threads(model.device),
            should_stop=self._should_stop,
        )
        for slot, error in results.errors.items():
            logger.info("row_failed", extra={"model": model.label, "slot": slot}, exc_info=error)
            known = records.get(slot, RowRecord(RowStatus.FAILED))
            records[slot] = replace(known, status=RowStatus.FAILED, failure=RowFailure.of("infer", error))
        slots = tuple(sorted(records))
        return ShardOutcome(
            slots,
            tuple(records[slot] for slot in slots),
            tuple(results.values.get(slot) if slot not in results.errors else None for slot in slots),
            results.batch_size,
            results.forwards,
            {slot: cells for slot, cells in results.cells.items() if slot not in results.errors},
        )

    def _record(self, row: RowInput) -> RowRecord:
        patch = row.patch
        n_images, first, last, dates, scenes = _summary(patch.frames)
        valid_fraction = patch.valid_fraction(_asked(row))
        # A pixel somewhere in the context is no answer for the ground that was asked about.
        if n_images == 0 or valid_fraction == 0.0:
            status = RowStatus.NO_DATA
        elif valid_fraction < self._min_valid:
            status = RowStatus.LOW_QUALITY
        else:
            status = RowStatus.OK
        return RowRecord(
            status, n_images, first, last, valid_fraction, dates, scenes, provenance=patch.provenance
        )


@lru_cache(maxsize=4096)
def _summary(frames: tuple[Frame, ...]) -> _Summary:
    """What a row tells of its frames; neighbours often share them."""
    firsts = [frame.first_date for frame in frames if frame.first_date is not None]
    lasts = [frame.last_date for frame in frames if frame.last_date is not None]
    return (
        sum(frame.n_images for frame in frames),
        min(firsts, default=None),
        max(lasts, default=None),
        tuple(frame.date if frame.n_images else None for frame in frames),
        tuple(sorted({scene for frame in frames for scene in frame.scene_ids})),
    )


def _preparing_threads(device: str) -> int:
    """How many threads prepare pixels beside the forward pass: none where that runs on the same cores."""
    return 0 if device == "cpu" else min(MOST_PREPARING, os.cpu_count() or 1)


def _asked(row: RowInput) -> Grid:
    """The ground that was asked about, within what the model sees."""
    return row.patch.grid.centre_crop(row.footprint.asked_height, row.footprint.asked_width)
