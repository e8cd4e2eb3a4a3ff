"""The life of a per-item export: what is there stays, what lacks is worked out and written, item by item."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rsembed.core.errors import ExportArgumentError
from rsembed.pipelines.layouts.entries import Entries, Manifest, status_of, utc_now
from rsembed.pipelines.layouts.hidden import HiddenState
from rsembed.pipelines.layouts.items import Items
from rsembed.pipelines.layouts.job import (
    LAYOUT_VERSION,
    LayoutJob,
    LayoutResult,
    check_place,
    failure_error,
    interned,
    stops_as_export_error,
)
from rsembed.pipelines.layouts.outcomes import HiddenRun, ItemOutcome
from rsembed.pipelines.layouts.per_item import ItemFiles, render_item
from rsembed.pipelines.layouts.statuses import row_status
from rsembed.pipelines.layouts.work import do_work, needs_pixels, planned_portions, refetch_lost
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.plan import RunPlan
from rsembed.pipelines.targets import EXTENSIONS, PER_ITEM_FOLDER, PerItemTarget

_PUTTING = 4
"""Threads that wait for the disk."""


def export_per_item(job: LayoutJob, target: PerItemTarget) -> LayoutResult:
    """Write one file and one sidecar per item; the same call again does what lacks, and tries again what failed.

    Raises before any work for a wrong request, ExportError where the folder cannot be used; with
    ``continue_on_error=False`` ModelError or ProviderError at the end, when all is saved that could be.
    """
    check_place(target.out_dir)
    items = job.items()
    names = target.names or tuple(f"p{index:05d}" for index in range(len(items)))
    if len(names) != len(items):
        raise ExportArgumentError(f"{len(names)} names were given for {len(items)} items; give one each")
    plan = job.plan(items)
    with stops_as_export_error(target.out_dir):
        result = _ItemExport(job, items, plan, names, target.out_dir).run()
    if not plan.config.continue_on_error:
        for manifest in result.manifests:
            for entry in manifest["models"]:
                if entry["status"] != "ok":
                    raise failure_error(entry, f"point {manifest['point_index']} ({manifest['spatial']})")
    return result


class _ItemExport:
    """One call's way through a folder."""

    def __init__(self, job: LayoutJob, items: Items, plan: RunPlan, names: tuple[str, ...], folder: Path) -> None:
        self._job, self._items, self._plan = job, items, plan
        self._state = HiddenState(folder / PER_ITEM_FOLDER, folder)
        config = plan.config
        spec = job.spec(plan, "per_item")
        self._files = ItemFiles(self._state.store, names, config.format, items, spec, config.save_manifest)
        self._fingerprint = job.fingerprint(plan, spec, items, names)
        self._entries: Entries = job.entries(plan)
        self._manifests: dict[int, Manifest] = {}

    def run(self) -> LayoutResult:
        """Do what lacks."""
        with self._state.locked():
            if self._plan.config.resume:
                there = self._there()
            else:
                there = set()
                for index in range(len(self._items)):
                    self._files.known(index)
                self._state.forget(self._fingerprint)
            lacking = [index for index in range(len(self._items)) if index not in there]
            requests = cached = 0
            if lacking:
                covers = self._state.covers(self._fingerprint)
                if covers is None or not set(lacking) <= set(covers):
                    covers = lacking
                    self._state.forget(self._fingerprint)
                    self._state.set_covers(self._fingerprint, covers)
                self._state.write_index(self._index("running"))
                with planned_portions(self._plan, self._items, covers) as portions:
                    job = self._job
                    done = do_work(portions, self._folder_of, job.provider, job.settings, job.progress)
                    requests, cached = done.requests, done.cached
                    self._render(done.runs, frozenset(lacking))
            manifests = [self._manifests[index] for index in range(len(self._items))]
            self._state.write_index(self._index(status_of(manifests)))
            self._state.forget()
        files = tuple(self._files.arrays(index) for index in range(len(self._items)))
        return LayoutResult(manifests, files, len(files), self._counts(manifests), len(there), requests, cached)

    def _counts(self, manifests: Sequence[Manifest]) -> dict[str, Counter[str]]:
        """Label -> items by status."""
        counts: dict[str, Counter[str]] = {model.label: Counter() for model in self._plan.models}
        for manifest in manifests:
            for entry in manifest["models"]:
                counts[entry["model"]][row_status(entry)] += 1
        return counts

    def _folder_of(self, number: int) -> OutputFolder:
        return self._state.portion(self._fingerprint, number)

    def _there(self) -> set[int]:
        """Items that need nothing done; their manifests are noted."""
        for index in range(len(self._items)):
            found = self._files.settled(index)
            if found is not None:
                path = str(self._files.arrays(index))
                self._manifests[index] = interned(found, self._entries)
                self._manifests[index] |= {"resume_skipped": True, "resume_output_path": path}
        return set(self._manifests)

    def _render(self, runs: Sequence[HiddenRun], lacking: frozenset[int]) -> None:
        progress = self._job.progress
        progress.start({"write": len(lacking)})
        try:
            # Files are made one after the other in this thread (NetCDF's library wants that), and made durable in
            # others: waiting for the disk is most of it.
            with ThreadPoolExecutor(_PUTTING, thread_name_prefix="put") as pool:
                for run in runs:
                    for shard in range(run.n_shards):
                        self._render_shard(pool, run, shard, lacking)
                        run.drop_packs(shard)
        finally:
            for run in runs:
                run.close()
            progress.finish()

    def _render_shard(self, pool: ThreadPoolExecutor, run: HiddenRun, shard: int, lacking: frozenset[int]) -> None:
        waiting: deque[Future[None]] = deque()
        for outcome in self._outcomes(run, shard, lacking):
            waiting.append(self._write(pool, outcome))
            while len(waiting) > 2 * _PUTTING or (waiting and waiting[0].done()):
                waiting.popleft().result()
        for future in waiting:
            future.result()

    def _outcomes(self, run: HiddenRun, shard: int, lacking: frozenset[int]) -> Iterator[ItemOutcome]:
        slots = [slot for slot, index in enumerate(run.item_numbers(shard)) if index in lacking]
        if slots and needs_pixels(self._plan):
            refetch_lost(run, shard, slots, self._job.provider, self._job.settings)
        yield from run.items(shard, slots)

    def _write(self, pool: ThreadPoolExecutor, outcome: ItemOutcome) -> Future[None]:
        config = self._plan.config
        arrays, manifest = render_item(
            outcome,
            self._items,
            self._entries,
            device=self._job.request.device,
            save_inputs=config.save_inputs,
            save_embeddings=config.save_embeddings,
        )
        manifest["request_fingerprint"] = self._files.fingerprint(outcome.index)
        index = outcome.index
        prepared = self._files.prepare(index, arrays, manifest)

        def put() -> None:
            self._manifests[index] = self._files.put(index, prepared, arrays, manifest)
            self._job.progress.advance("write", 1)

        return pool.submit(put)

    def _index(self, status: str) -> Manifest:
        """Which files make up the export, so that those of earlier ones are not taken for it."""
        extension = EXTENSIONS[self._plan.config.format]
        return {
            "layout": "per_item",
            "version": LAYOUT_VERSION,
            "status": status,
            "written_at": utc_now(),
            "request_fingerprint": self._fingerprint,
            "n_items": len(self._items),
            "models": [model.label for model in self._plan.models],
            "files": [name + extension for name in self._files.names],
        }
