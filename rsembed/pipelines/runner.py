"""From what a user asked to answers: the steps that the API, the command line and the fleet share."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import CellGrid
from rsembed.core.errors import ExportError, ModelError, SpecError
from rsembed.core.settings import Settings
from rsembed.core.specs import Spatial, Window
from rsembed.pipelines.arrays import array_inputs
from rsembed.pipelines.exporter import BatchExporter, ExportSummary
from rsembed.pipelines.fetch_unit import FetchUnit
from rsembed.pipelines.inference import InferenceEngine, RowRecord, map_cells, unit_source
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.local_fetching import open_prefetch
from rsembed.pipelines.memory import returned_memory
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.plan import ModelPlan, RunPlan, lock_weights, plan_run
from rsembed.pipelines.prefetch import PrefetchManager
from rsembed.pipelines.progress import ProgressListener
from rsembed.pipelines.request import DatasetTarget, RunRequest
from rsembed.pipelines.rows.formats import open_table
from rsembed.pipelines.rows.table import RowOptions, RowTable, build_rows
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.scratch_folder import scratch_folder
from rsembed.pipelines.servable import check_places
from rsembed.providers.base import ProviderBase
from rsembed.tools.tiling import Footprint


@dataclass(frozen=True)
class RowAnswer:
    """One row's outcome: ``vector`` is float32 (D,) or (D, h, w), None where there is none.

    ``footprint``: how the row met the model. ``cells``: where a map lies; None for vectors, and for pixels in hand,
    of which nobody said where they are.
    """

    record: RowRecord
    vector: NDArray[np.float32] | None
    footprint: Footprint
    cells: CellGrid | None = None


def export(
    request: RunRequest,
    source: object,
    *,
    windows: WindowPolicy,
    provider: ProviderBase,
    target: DatasetTarget,
    settings: Settings,
    row_options: RowOptions | None = None,
    progress: ProgressListener | None = None,
    pad: bool = True,
    on_planned: Callable[[RunPlan, RowTable], None] = lambda plan, table: None,
) -> ExportSummary:
    """Run ``request`` over the table ``source`` into ``target``; everything is checked before any work starts.

    A buffer that all places of a list agree on is the run's. ``on_planned`` is told the plan and the rows once both
    are known to be good.
    """
    opened = open_table(source)
    plan = plan_run(with_buffer(request, opened.buffer_m), provider, settings)
    with returned_memory(), scratch_rows(opened, windows, target.out, row_options) as table:
        check_places(plan, table)
        on_planned(plan, table)
        plan = lock_weights(plan, settings, OutputFolder(target.out).locked_weights())
        exporter = BatchExporter(
            plan,
            table,
            provider=provider,
            out=target.out,
            npz=target.npz,
            zarr=target.zarr,
            progress=progress,
            pad=pad,
            settings=settings,
        )
        return exporter.run()


def with_buffer(request: RunRequest, buffer_m: float | None) -> RunRequest:
    """``request`` with the buffer that its places state; SpecError where its config says another one."""
    stated = request.config.buffer_m
    if buffer_m is None or stated == buffer_m:
        return request
    if stated is not None:
        raise SpecError(f"the places have a buffer of {buffer_m:g} m, buffer_m is {stated:g}; give one of the two")
    return request.with_config(buffer_m=buffer_m)


@contextlib.contextmanager
def scratch_rows(
    source: object, windows: WindowPolicy, near: Path | None, options: RowOptions | None = None
) -> Iterator[RowTable]:
    """The rows of ``source``, kept in a scratch folder (beside ``near`` if given) while the block runs."""
    folder = Path(tempfile.gettempdir()) if near is None else near.absolute().parent
    opened = open_table(source)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(scratch_folder(".rsembed-rows-", folder))
            table = build_rows(opened, windows=windows, scratch_dir=scratch, options=options or RowOptions())
        except OSError as exc:
            raise ExportError(f"cannot write to {folder}: {exc}; choose another output folder") from exc
        yield table


def embed_places(
    plan: RunPlan, spatials: Sequence[Spatial], window: Window, provider: ProviderBase, settings: Settings
) -> list[RowAnswer]:
    """Fetch and embed a few places in memory with the plan's one model; answers in the order of ``spatials``."""
    answers: dict[int, RowAnswer] = {}
    by_buffer: dict[float | None, list[int]] = {}
    for i, spatial in enumerate(spatials):
        by_buffer.setdefault(getattr(spatial, "buffer_m", None), []).append(i)
    with contextlib.ExitStack() as stack:
        tables = []
        for buffer_m, members in by_buffer.items():
            rows = scratch_rows([spatials[i] for i in members], WindowPolicy(default=(window,)), None)
            tables.append(stack.enter_context(rows))
            alike = replace(plan, config=replace(plan.config, buffer_m=buffer_m))
            check_places(alike, tables[-1], [f"spatials[{i}] ({spatials[i]})" for i in members])
        for (buffer_m, members), table in zip(by_buffer.items(), tables, strict=True):
            found = _embed_alike(plan, table, open_prefetch(plan, provider, settings), buffer_m)
            answers.update(zip(members, found, strict=True))
    return [answers[i] for i in range(len(spatials))]


def _embed_alike(plan: RunPlan, table: RowTable, prefetch: PrefetchManager, buffer_m: float | None) -> list[RowAnswer]:
    """:func:`embed_places` for places of one buffer, in the order of the input rows."""
    model, config, group = single_model(plan), plan.config, plan.groups[0]
    engine = InferenceEngine(threads=config.threads, min_valid_fraction=config.min_valid_fraction, pad=False)
    answers: dict[int, RowAnswer] = {}

    def units() -> Iterator[tuple[FetchUnit, InputPack]]:
        for index in range(table.n_shards(config.shard_size)):
            shard = table.shard(index, config.shard_size)
            wanted = {model.label: tuple(range(len(shard)))}
            unit = FetchUnit(group, index, shard, wanted, plan.group_digest(group), buffer_m)
            yield unit, InputPack(table.path.parent / f"unit-{index}.pack")

    try:
        for fetched in prefetch.run(units(), shard_size=config.shard_size):
            source = unit_source(model, fetched, partial(prefetch.fetch_again, fetched))
            outcome = engine.run(model, len(fetched.unit.shard), source)
            unit = fetched.unit
            for slot, record, vector in zip(outcome.slots, outcome.records, outcome.vectors, strict=True):
                answers[int(unit.shard.row[slot])] = RowAnswer(
                    record, vector, unit.footprints[model.label][slot], map_cells(unit, model, outcome, slot)
                )
            prefetch.release(fetched)
    finally:
        prefetch.stop()
    return [answers[i] for i in range(table.n_rows)]


def embed_arrays(
    model: ModelPlan,
    arrays: Sequence[NDArray[np.generic]],
    spatials: Sequence[Spatial],
    windows: Sequence[Window],
    *,
    threads: int = 1,
    min_valid_fraction: float = 0.5,
) -> list[RowAnswer]:
    """Embed arrays in hand, in batches of the plan's size with a short last one."""
    rows = array_inputs(model, arrays, spatials, windows)
    engine = InferenceEngine(threads=threads, min_valid_fraction=min_valid_fraction, pad=False)
    outcome = engine.run(model, len(rows), rows.__getitem__)
    return [
        RowAnswer(record, vector, row.footprint)
        for record, vector, row in zip(outcome.records, outcome.vectors, rows, strict=True)
    ]


def tiling_notes(model: ModelPlan, footprints: Sequence[Footprint]) -> list[str]:
    """What a user should know of regions that took many forward passes, or of maps put together from several."""
    config, card = model.embedder.config, model.embedder.card
    most = max(footprint.forwards for footprint in footprints)
    notes = []
    if most > config.input_prep.max_tiles:
        notes.append(
            f"a region takes {most} tiles of {card.id}, more than max_tiles={config.input_prep.max_tiles}; "
            "input_prep='auto' would squeeze it into one input, a smaller region or a coarser scale_m takes fewer"
        )
    if most > 1 and config.output.mode == "grid" and not model.embedder.seamless:
        overlap = (
            ""
            if config.input_prep.tile_stride
            else (". Overlaps (InputPrepSpec.tile(tile_stride=...)) keep seams away from tiles' edges")
        )
        notes.append(
            f"a map of {card.id} was put together from {most} tiles, each seen without its neighbours: it may have "
            f"seams where they meet{overlap}"
        )
    return notes


def single_model(plan: RunPlan) -> ModelPlan:
    """The only model of ``plan``; ModelError when there are several."""
    if len(plan.models) != 1:
        raise ModelError(f"one model was expected, the plan has {len(plan.models)}")
    return plan.models[0]
