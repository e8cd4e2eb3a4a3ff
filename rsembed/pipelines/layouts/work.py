"""The work behind a layout: hidden dataset runs over the items that are to be done, and their pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rsembed.core.settings import Settings
from rsembed.pipelines.exporter import BatchExporter
from rsembed.pipelines.fetch_unit import FetchUnit, RowFailure
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.layouts.items import Items
from rsembed.pipelines.layouts.outcomes import HiddenRun, recorded_failures
from rsembed.pipelines.local_fetching import open_prefetch
from rsembed.pipelines.memory import returned_memory
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.plan import RunPlan
from rsembed.pipelines.progress import ProgressListener
from rsembed.pipelines.rows.table import RowOptions, RowTable
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.runner import scratch_rows
from rsembed.pipelines.servable import check_places
from rsembed.providers.base import ProviderBase


@dataclass(frozen=True)
class Portion:
    """The items of one buffer: a plan and the rows it is for."""

    plan: RunPlan
    table: RowTable


@dataclass(frozen=True)
class WorkResult:
    """The runs, finished; ``requests``, ``cached``: what they cost this process."""

    runs: tuple[HiddenRun, ...]
    requests: int
    cached: int


@contextlib.contextmanager
def planned_portions(plan: RunPlan, items: Items, indices: Sequence[int]) -> Iterator[list[Portion]]:
    """The items ``indices``, planned and checked; their rows lie in scratch files while the block runs."""
    maps = any(model.embedder.config.output.mode == "grid" for model in plan.models)
    with contextlib.ExitStack() as stack:
        portions = []
        for buffer_m, source in items.portions(indices):
            config = replace(plan.config, buffer_m=buffer_m, keep_inputs=needs_pixels(plan))
            if maps:
                # A file is read a group of rows at a time, and maps are large.
                config = replace(config, shards_per_part=1)
            options = RowOptions(id_column="id", carry=())
            table = stack.enter_context(scratch_rows(source, WindowPolicy(), None, options))
            portion = Portion(replace(plan, config=config), table)
            check_places(portion.plan, table)
            portions.append(portion)
        yield portions


def needs_pixels(plan: RunPlan) -> bool:
    """Whether the pixels are looked at when the embeddings are there."""
    config = plan.config
    return config.save_inputs or config.fail_on_bad_input or not config.save_embeddings


def do_work(
    portions: Sequence[Portion],
    folder_of: Callable[[int], OutputFolder],
    provider: ProviderBase,
    settings: Settings,
    progress: ProgressListener,
) -> WorkResult:
    """Embed (or just fetch) all rows of ``portions`` that are not done yet, each in a folder of its own."""
    runs = []
    requests = cached = 0
    with returned_memory():
        for number, portion in enumerate(portions):
            folder = folder_of(number)
            failures: dict[tuple[str, int], RowFailure] = {}
            if portion.plan.config.save_embeddings:
                exporter = BatchExporter(
                    portion.plan,
                    portion.table,
                    provider=provider,
                    out=folder.root,
                    zarr=False,
                    progress=progress,
                    settings=settings,
                )
                summary = exporter.run()
                requests, cached = requests + summary.requests, cached + summary.cached
                failures = recorded_failures(folder)
            run = HiddenRun(portion.plan, portion.table, folder, failures=failures)
            runs.append(run)
            if not portion.plan.config.save_embeddings:
                spent = fetch_pixels(run, failures, range(run.n_shards), provider, settings, progress)
                requests, cached = requests + spent[0], cached + spent[1]
    return WorkResult(tuple(runs), requests, cached)


def fetch_pixels(
    run: HiddenRun,
    failures: dict[tuple[str, int], RowFailure],
    shards: Sequence[int],
    provider: ProviderBase,
    settings: Settings,
    progress: ProgressListener,
) -> tuple[int, int]:
    """Fetch the pixels of ``shards`` that are not in their packs; what fails goes into ``failures``.

    Returns the requests made, and those that the cache of inputs spared.
    """
    plan = run.plan
    lacking = [(group, index) for index in shards for group in plan.groups]
    progress.start({"fetch": sum(len(run.item_numbers(index)) for _, index in lacking)})

    def units() -> Iterator[tuple[FetchUnit, InputPack]]:
        for group, index in lacking:
            yield run.unit(group, index), run.pack(group, index)

    prefetch = open_prefetch(plan, provider, settings, on_settled=lambda rows: progress.advance("fetch", rows))
    requests = cached = 0
    try:
        for fetched in prefetch.run(units(), shard_size=plan.config.shard_size):
            requests, cached = requests + fetched.requests, cached + fetched.cached
            for model in fetched.unit.group.models:
                for slot, failure in fetched.failures.items():
                    failures[model.label, int(fetched.unit.shard.seq[slot])] = failure
            prefetch.release(fetched)
    finally:
        prefetch.stop()
        progress.finish()
    return requests, cached


def refetch_lost(
    run: HiddenRun, index: int, slots: Sequence[int], provider: ProviderBase, settings: Settings
) -> None:
    """Fetch again what the packs of a shard lack of ``slots`` (an earlier call has let it go)."""
    plan = run.plan
    for group in plan.groups:
        unit = run.unit(group, index)
        with run.pack(group, index) as pack:
            lost = tuple(s for s in slots if pack.lacks(unit.key(s), group.bands) and not run.failed(group, index, s))
        if not lost:
            continue
        again = replace(unit, wanted={model.label: lost for model in group.models})
        prefetch = open_prefetch(plan, provider, settings)
        try:
            for fetched in prefetch.run(iter([(again, run.pack(group, index))]), shard_size=plan.config.shard_size):
                prefetch.release(fetched)
        finally:
            prefetch.stop()
