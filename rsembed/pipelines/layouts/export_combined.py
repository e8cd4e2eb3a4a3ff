"""The life of a combined export: all items are worked out, then one file takes the place of the old one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsembed.core.errors import ExportError
from rsembed.pipelines.layouts.combined import CombinedRendering, combined_manifest
from rsembed.pipelines.layouts.entries import Manifest, is_combined_settled, manifest_text, utc_now
from rsembed.pipelines.layouts.hidden import HiddenState, combined_folder
from rsembed.pipelines.layouts.items import Items
from rsembed.pipelines.layouts.job import LayoutJob, LayoutResult, failure_error, stops_as_export_error
from rsembed.pipelines.layouts.outcomes import HiddenRun
from rsembed.pipelines.layouts.per_item import PATH_KEYS, file_attributes, is_intact, read_manifest
from rsembed.pipelines.layouts.work import do_work, needs_pixels, planned_portions, refetch_lost
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.plan import RunPlan
from rsembed.pipelines.targets import EXTENSIONS, CombinedTarget
from rsembed.writers.array_file import SpilledArrays, write_arrays
from rsembed.writers.store import ANY, scratch_file


def export_combined(job: LayoutJob, target: CombinedTarget) -> LayoutResult:
    """Write one file of all items and one sidecar; the same call again tries just what failed.

    Raises as :func:`rsembed.pipelines.layouts.export_items.export_per_item` does.
    """
    file = target.file(EXTENSIONS[job.request.config.format])
    if file.is_dir():
        raise ExportError(f"{file} is a folder; name a file")
    _refuse_foreign(file)
    items = job.items()
    plan = job.plan(items)
    with stops_as_export_error(file):
        result = _CombinedExport(job, items, plan, file).run()
    if not plan.config.continue_on_error:
        for entry in result.manifests[0]["models"]:
            for index in entry.get("failed_indices", ()):
                about = {"stage": entry["stages_by_index"][str(index)], "error": entry["errors_by_index"][str(index)]}
                raise failure_error(entry | about, f"point {index} ({items.spatial_json(index)})")
    return result


def _refuse_foreign(file: Path) -> None:
    """Raise ExportError where the sidecar would take the place of somebody's own JSON."""
    sidecar = file.with_suffix(".json")
    found = read_manifest(sidecar)
    beside = any(file.with_suffix(ending).exists() for ending in EXTENSIONS.values())
    ours = beside if found is None else "models" in found
    if sidecar.exists() and not ours:
        raise ExportError(f"{sidecar} is no manifest of an export, and would be overwritten; choose another name")


class _CombinedExport:
    """One call's way to one file."""

    def __init__(self, job: LayoutJob, items: Items, plan: RunPlan, file: Path) -> None:
        self._job, self._items, self._plan, self._file = job, items, plan, file
        self._state = HiddenState(combined_folder(file), file.absolute().parent)
        seen = plan.config.save_manifest
        self._sidecar = file.with_suffix(".json") if seen else self._state.folder / "manifest.json"
        self._fingerprint = job.fingerprint(plan, job.spec(plan, "combined"), items, ())
        self._entries = job.entries(plan)

    def run(self) -> LayoutResult:
        """Do what lacks."""
        with self._state.locked():
            there = self._there() if self._plan.config.resume else None
            if there is not None:
                self._clear()
                return self._result(there, len(self._items), 0, 0)
            if not self._plan.config.resume:
                self._state.forget(self._fingerprint)
            job = self._job
            with planned_portions(self._plan, self._items, range(len(self._items))) as portions:
                done = do_work(portions, self._folder_of, job.provider, job.settings, job.progress)
                manifest, unsettled = self._write(done.runs)
            if unsettled:
                self._state.forget_others(self._fingerprint)
            else:
                self._clear()
        return self._result(manifest, 0, done.requests, done.cached)

    def _result(self, manifest: Manifest, skipped: int, requests: int, cached: int) -> LayoutResult:
        counts = {entry["model"]: entry["counts"] for entry in manifest["models"]}
        return LayoutResult([manifest], (self._file,), len(self._items), counts, skipped, requests, cached)

    def _clear(self) -> None:
        """Nothing is left to resume; a manifest that is not wanted beside the file stays."""
        if self._plan.config.save_manifest:
            self._state.remove()
        else:
            self._state.forget()

    def _folder_of(self, number: int) -> OutputFolder:
        return self._state.portion(self._fingerprint, number)

    def _there(self) -> Manifest | None:
        """The manifest of a file that is there, whole, of the same request and with nothing to retry."""
        found = read_manifest(self._sidecar)
        if found is None or found.get("request_fingerprint") != self._fingerprint:
            return None
        if not is_combined_settled(found) or not is_intact(found, self._file):
            return None
        return found | {"resume_skipped": True, "resume_output_path": str(self._file)}

    def _write(self, runs: Sequence[HiddenRun]) -> tuple[Manifest, bool]:
        """Put the file and its sidecar in place; also tells whether something is to be tried again."""
        began = utc_now()
        scratch = self._state.store.scratch
        with SpilledArrays(scratch / "arrays") as arrays:
            rendering = CombinedRendering(self._plan, self._items, self._entries, arrays, runs)
            self._gather(runs, rendering)
            models = list(rendering.model_entries())
            manifest = combined_manifest(self._entries.head(self._job.request.device), self._items, models)
            manifest |= {
                "created_at": began,
                "completed_at": utc_now(),
                "request_fingerprint": self._fingerprint,
                "unsettled": rendering.unsettled,
            }
            self._put(arrays, manifest)
        return manifest, rendering.unsettled

    def _gather(self, runs: Sequence[HiddenRun], rendering: CombinedRendering) -> None:
        progress = self._job.progress
        progress.start({"write": len(self._items)})
        try:
            for run in runs:
                for shard in range(run.n_shards):
                    slots = range(len(run.item_numbers(shard)))
                    if needs_pixels(self._plan):
                        refetch_lost(run, shard, slots, self._job.provider, self._job.settings)
                    for outcome in run.items(shard, slots):
                        for each in outcome.models:
                            rendering.take(outcome.index, each)
                        progress.advance("write", 1)
        finally:
            for run in runs:
                run.close()
            progress.finish()

    def _put(self, arrays: SpilledArrays, manifest: Manifest) -> None:
        config, store = self._plan.config, self._state.store
        path_key, keys_key = PATH_KEYS[config.format]
        named = arrays.arrays()
        with scratch_file(store, self._file.name) as path:
            write_arrays(path, named, netcdf=config.format == "netcdf", attributes=file_attributes(manifest))
            stored = store.put(self._file.name, path, replaces=ANY)
        manifest[path_key] = str(self._file)
        manifest[keys_key] = [array.key for array in named]
        manifest["arrays_file"] = {"name": self._file.name, "bytes": stored.bytes, "sha256": stored.sha256}
        beside = self._file.with_suffix(".json")
        before = read_manifest(beside)
        if config.save_manifest:
            manifest["manifest_path"] = str(beside)
            store.put(beside.name, manifest_text(manifest).encode(), replaces=ANY)
        else:
            self._state.write(self._sidecar.name, manifest_text(manifest))
            if before is not None and "arrays_file" in before:
                beside.unlink()
        self._remove_other_format(before)

    def _remove_other_format(self, before: Manifest | None) -> None:
        """A file of the same stem that the old sidecar was written for has none any more."""
        for ending in EXTENSIONS.values():
            other = self._file.with_suffix(ending)
            if other != self._file and before is not None and is_intact(before, other):
                other.unlink(missing_ok=True)
