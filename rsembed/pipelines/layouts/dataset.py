"""A dataset export as ``export_batch`` gives it: begun anew on request, and raising where that is asked for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from rsembed.core.errors import ExportArgumentError, ModelError, ProviderError
from rsembed.pipelines.exporter import ExportSummary
from rsembed.pipelines.layouts.job import LayoutJob, stops_as_export_error
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.request import ExportConfig
from rsembed.pipelines.runner import export
from rsembed.pipelines.targets import DatasetTarget
from rsembed.writers.atomic import fsync_folder


def export_dataset(job: LayoutJob, target: DatasetTarget) -> ExportSummary:
    """Export into a dataset folder; see :func:`rsembed.pipelines.runner.export`.

    ``resume=False`` works in a folder beside it, which takes the old one's place when it is done.
    ``continue_on_error=False`` raises at the end when a row has no embedding.
    """
    config = job.request.config
    _check_config(config)
    with stops_as_export_error(target.out):
        _finish_swap(target.out)
        if config.resume or not OutputFolder(target.out).run_file.exists():
            summary = _export(job, target)
        else:
            beside = target.out.with_name(f".{target.out.name}.rsembed-new")
            shutil.rmtree(beside, ignore_errors=True)
            summary = _export(job, replace(target, out=beside))
            summary = _swapped(summary, target.out, beside)
    if not config.continue_on_error:
        _raise_first_failure(summary)
    return summary


def _export(job: LayoutJob, target: DatasetTarget) -> ExportSummary:
    return export(
        job.request,
        job.source,
        windows=job.windows,
        provider=job.provider,
        target=target,
        settings=job.settings,
        row_options=job.row_options,
        progress=job.progress,
        on_planned=job.on_planned,
    )


def _check_config(config: ExportConfig) -> None:
    """Raise for settings that only the other layouts have."""
    reasons = {
        "save_embeddings": (not config.save_embeddings, "a dataset is its embeddings"),
        "save_manifest": (not config.save_manifest, "a dataset is read by its manifest"),
        "fail_on_bad_input": (config.fail_on_bad_input, "a dataset marks such rows low_quality (min_valid_fraction)"),
        "format": (config.format != "npz", "a dataset is GeoParquet"),
    }
    for name, (wrong, why) in reasons.items():
        if wrong:
            raise ExportArgumentError(
                f"{name}={getattr(config, name)!r}: {why}; use ExportTarget.per_item or .combined for it"
            )


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.rsembed-old")


def _finish_swap(out: Path) -> None:
    """Bring back what a process that died between two renames left aside."""
    if _aside(out).exists() and not out.exists():
        _aside(out).rename(out)
    shutil.rmtree(_aside(out), ignore_errors=True)


def _swapped(summary: ExportSummary, out: Path, beside: Path) -> ExportSummary:
    """``beside`` in the place of ``out``, which is removed."""
    out.rename(_aside(out))
    beside.rename(out)
    fsync_folder(out.absolute().parent)
    shutil.rmtree(_aside(out), ignore_errors=True)
    return replace(summary, out=out)


def _raise_first_failure(summary: ExportSummary) -> None:
    """Raise for the first row without an embedding, in the order of models and rows."""
    failures = pq.read_table(summary.out / "failures.parquet").to_pylist()
    for label, counts in summary.counts.items():
        failed = [row for row in failures if row["model"] == label]
        if failed:
            first = min(failed, key=lambda row: row["row"])
            kind = ModelError if first["stage"] == "infer" else ProviderError
            raise kind(f"row {first['row']} (id {first['id']}): {label}: {first['message']}; the rest is saved")
        lacking = sum(counts.get(name, 0) for name in ("no_data", "collection_gap"))
        if lacking:
            raise ProviderError(f"{label}: {lacking} rows have no imagery in their windows; the rest is saved")
